package capacity

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Descriptors raises this process's soft limit of open files (RLIMIT_NOFILE) to
// its hard limit and returns it, a number of descriptors. Go's runtime raises
// it at start too, but a library may have lowered it since.
//
// With an error the number is the soft limit still in force (0 if not even that
// could be read): the kernel refuses a hard limit above fs.nr_open
// (getrlimit(2)).
func Descriptors() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("capacity: reading the descriptor limit: %w", err)
	}
	if l.Cur == l.Max {
		return l.Cur, nil
	}
	raised := unix.Rlimit{Cur: l.Max, Max: l.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return l.Cur, fmt.Errorf("capacity: raising the descriptor limit from %d to %d: %w", l.Cur, l.Max, err)
	}
	return raised.Cur, nil
}
