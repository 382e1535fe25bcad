package capacity

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestDescriptorsRaisesTheSoftLimit(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	lowered := unix.Rlimit{Cur: before.Max / 2, Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		n, err := Descriptors()
		if err != nil || n != before.Max {
			t.Fatalf("%d, %v; want the hard limit %d", n, err, before.Max)
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil || now != (unix.Rlimit{Cur: before.Max, Max: before.Max}) {
			t.Fatalf("the limit in force is %+v, %v", now, err)
		}
	}
}
