"""Property tests fail for what is wrong, not for what is slow: this machine may be busy with other tests."""

from hypothesis import settings

settings.register_profile("creche", settings(), deadline=None)
settings.load_profile("creche")
