#!/bin/sh
# After the package's files are there: the user is made, and systemd hears of the unit.
# Nothing is enabled or started; a service that runs goes on with the old binary until it
# is restarted.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers odin.conf
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
