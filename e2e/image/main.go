//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// memory is the container's limit, bytes.
const memory = 512 << 20

// rig is what all steps share. One goroutine uses it.
type rig struct {
	odin   string // the binary that `make build` made: the clients, and what the image's is compared with
	source string // the checkout
	tmp    string // removed at the end
	quick  bool
	files  uint64 // open files the container may have

	checks []check
	image  *image
}

// check is a line of the table.
type check struct {
	what, seen string
	ok         bool
}

// check notes what was seen of something that must hold, and returns whether it did.
func (r *rig) check(what string, ok bool, seen string, args ...any) bool {
	c := check{what, strings.TrimSpace(fmt.Sprintf(seen, args...)), ok}
	r.checks = append(r.checks, c)
	mark := "ok   "
	if !ok {
		mark = "FAULT"
	}
	fmt.Printf("%s %s %s: %s\n", time.Now().Format("15:04:05"), mark, c.what, c.seen)
	return ok
}

func main() {
	r := &rig{}
	var out string
	flag.StringVar(&r.odin, "odin", "bin/odin", "the binary of this checkout, as make build made it")
	flag.StringVar(&r.source, "source", ".", "the checkout")
	flag.StringVar(&out, "out", "", "write the table to this file too")
	flag.StringVar(&r.tmp, "tmp", "", "where to work; default: a temporary directory. About 200 MB")
	flag.BoolVar(&r.quick, "quick", false, "without the part with 10 000 clients")
	flag.Parse()
	// Interrupted, what runs is ended and undone all the same.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := r.main(ctx, out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func (r *rig) main(ctx context.Context, out string) (err error) {
	for _, p := range []*string{&r.odin, &r.source} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if _, err := os.Stat(r.odin); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	if err := missing(); err != nil {
		return err
	}
	if r.tmp, err = os.MkdirTemp(r.tmp, "odin-image-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.tmp)
	r.files = raiseFiles()
	if err := errors.Join(r.steps(ctx), ctx.Err()); err != nil {
		return err
	}
	text, faults := r.report()
	fmt.Print("\n" + text)
	if out != "" { // a table with a fault in it says so
		if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if faults > 0 {
		return fmt.Errorf("%d faults", faults)
	}
	return nil
}

// steps builds, looks at and runs the image.
func (r *rig) steps(ctx context.Context) error {
	start := time.Now()
	if err := r.build(ctx); err != nil {
		return err
	}
	fmt.Printf("built in %.0f s\n", time.Since(start).Seconds())
	if err := r.look(ctx); err != nil {
		return err
	}
	net, err := newNetwork(ctx)
	if err != nil {
		return err
	}
	defer net.remove()
	// Both use one volume: what the first has stored the second must have.
	data, err := r.volume("data")
	if err != nil {
		return err
	}
	if err := r.whole(ctx, net, data); err != nil {
		return err
	}
	return r.full(ctx, net, data)
}

// missing names the programs that are not here.
func missing() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("only root may make cgroups, namespaces and mounts"))
	}
	for _, p := range [][2]string{{"buildah", "buildah"}, {"busybox", "busybox-static"}, {"ip", "iproute2"}} {
		if _, err := exec.LookPath(p[0]); err != nil {
			errs = append(errs, fmt.Errorf("no %s here (Debian: apt-get install %s)", p[0], p[1]))
		}
	}
	if ociRuntime() == "" {
		errs = append(errs, errors.New("no OCI runtime here (Debian: apt-get install crun)"))
	}
	return errors.Join(errs...)
}

// raiseFiles takes as many descriptors as a gateway of 512 MiB may need, or as this
// machine gives, and returns how many that are: a container's limit can't be more than
// that of who starts it.
func raiseFiles() uint64 {
	const enough = 262144 // as in deploy/compose
	l := syscall.Rlimit{Cur: enough, Max: enough}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		return enough
	}
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	l.Cur = l.Max
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	return l.Max
}
