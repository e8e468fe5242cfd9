"""`creche-oci`: the OCI runtime's command line, as runc and crun have it."""
