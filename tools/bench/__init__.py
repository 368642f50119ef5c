"""`make bench`: compares the module with other WSGI servers, and with what nginx and Python cost alone."""
