"""The Django app with the command `manage.py runnginx`."""
