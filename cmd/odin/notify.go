package main

import (
	"fmt"
	"net"
)

// tellManager tells the service manager that started this process how far it is:
// READY=1, STOPPING=1 and a STATUS= line (sd_notify(3)). Without NOTIFY_SOCKET in the
// environment nobody asked, and nothing is done.
func tellManager(environ []string, state string) error {
	name, _ := lookupEnv(environ, "NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"}) // "@" begins an abstract one
	if err != nil {
		return fmt.Errorf("the service manager at $NOTIFY_SOCKET: %w", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("the service manager at $NOTIFY_SOCKET: %w", err)
	}
	return nil
}
