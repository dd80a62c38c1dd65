"""The `demo` subcommand: opens runs and serves the page until it is interrupted."""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from recbole_soft.config.words import parse_options
from recbole_soft.errors import SettingError

DEFAULTS = {"host": "127.0.0.1", "port": "7860"}
OPTIONS = ("runs", "data_path", *DEFAULTS)
EXAMPLE = "python run_recbole_soft.py demo --runs=saved/BIGRec_SOFT-...,saved/SASRec-..."
HELP = f"""A page on this machine that shows what finished runs recommend for the same history.

  --runs=RUN,RUN      run folders; FOLDER:STAGE for one stage (default: all stages of a run)
  --data_path=FOLDER  folder that holds the data set, if it has moved
  --port=PORT         default: {DEFAULTS["port"]}
  --host=ADDRESS      default: {DEFAULTS["host"]}, which only this machine can reach

Needs gradio: pip install "recbole_soft[demo]". Nothing is fetched from or sent to another machine.
example: {EXAMPLE}
"""


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; `argv` is what comes after the word `demo`. Ends at Ctrl+C.

    Raises:
        UserError: an option or a run cannot be used, or gradio is not installed.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    options = read_options(argv)
    if importlib.util.find_spec("gradio") is None:
        raise SettingError("the page needs gradio, which is not installed", "demo",
                           'pip install "recbole_soft[demo]"')
    check_port(options["host"], int(options["port"]))
    from recbole_soft.demo.panels import SideBySide, open_panels

    runs = [word.strip() for word in options["runs"].split(",") if word.strip()]
    sys.stderr.write(f"opening {len(runs)} run{'s' if len(runs) != 1 else ''} ...\n")
    shown = SideBySide(open_panels(runs, options.get("data_path")))
    module: Any = importlib.import_module("recbole_soft.demo.page")
    page = module.build_page(shown)
    address = module.serve(page, options["host"], int(options["port"]))
    if not is_local(options["host"]):
        sys.stderr.write("everybody who can reach this machine can use the page\n")
    sys.stdout.write(f"{address}\nCtrl+C ends it\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)
    return 0


def read_options(argv: Sequence[str]) -> dict[str, str]:
    """The command's words as options.

    Raises:
        SettingError: an option that is unknown, missing or malformed.
    """
    options = parse_options(argv, OPTIONS, DEFAULTS, "demo", EXAMPLE)
    if not options.get("runs"):
        raise SettingError("--runs is missing", "command line", EXAMPLE)
    if not options["port"].isdecimal() or not 0 < int(options["port"]) < 65536:
        raise SettingError(f"port = {options['port']}: must be an integer between 1 and 65535", "command line",
                           "e.g. --port=7860")
    return options


def check_port(host: str, port: int) -> None:
    """Raises SettingError where the page could not be served, before any run is opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        raise SettingError(f"the page cannot be served: {error.strerror or error}", where=f"{host}:{port}",
                           remedy=f"choose another port, for instance --port={port % 65535 + 1}") from error


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
