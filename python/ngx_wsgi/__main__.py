"""`python -m ngx_wsgi` is `ngx-wsgi`."""

import sys

from .cli import main

sys.exit(main())
