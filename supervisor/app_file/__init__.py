"""The app file: its classes, how it is read, checked and written back."""
