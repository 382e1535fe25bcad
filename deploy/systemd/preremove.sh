#!/bin/sh
# Before the package's files go: the service ends, unless this is an upgrade (rpm passes
# 1 then, dpkg "upgrade").
set -e
case "${1:-}" in
1 | upgrade) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now odin.service
fi
