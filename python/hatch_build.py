"""Build hook of hatchling: a wheel with the binaries of one Python and one machine."""

import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BINARIES = ("ngx_wsgi/bin/nginx", "ngx_wsgi/lib/ngx_http_wsgi_module.so", "scripts/ngx-wsgi-ctl")


class BuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        missing = [name for name in BINARIES if not Path(self.root, name).is_file()]
        if missing:
            raise SystemExit(f"{', '.join(missing)}: not built; build the wheel with make wheel")
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"{python}-{python}-{platform}"
        build_data["pure_python"] = False
