package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/odin-ws/odin/e2e/autobahn/suite"
)

// options are the command's flags.
type options struct {
	odin     string
	cases    []string
	skip     []string
	suite    string
	out      string
	parallel int
}

func main() {
	var o options
	var cases, skip string
	flag.StringVar(&o.odin, "odin", "bin/odin", "the binary under test")
	flag.StringVar(&cases, "cases", "1,2,3,4,5,6,7,9,10,12,13", "only these, each a case, a part or a section")
	flag.StringVar(&skip, "skip", "", "not these")
	flag.StringVar(&o.suite, "suite", "auto", "whose runner: own, public, or auto: ours, and the public suite where it is installed")
	flag.StringVar(&o.out, "out", "", "write the report to this file too, failures and all")
	flag.IntVar(&o.parallel, "parallel", 4, "cases at a time; the public suite runs one")
	flag.Parse()
	o.cases = strings.Split(cases, ",")
	if skip != "" {
		o.skip = strings.Split(skip, ",")
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "autobahn:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	all := suite.Cases()
	wanted := suite.Select(all, o.cases...)
	skipped := suite.Select(all, o.skip...)
	wanted = slices.DeleteFunc(wanted, func(c *suite.Case) bool { return slices.Contains(skipped, c) })
	if len(wanted) == 0 {
		return fmt.Errorf("no case is called %s", strings.Join(o.cases, " or "))
	}
	var public *publicSuite
	switch o.suite {
	case "own":
	case "auto", "public":
		var why string
		if public, why = findPublic(); public == nil {
			if o.suite == "public" {
				return errors.New("the public suite is not here: " + why)
			}
			fmt.Println("note: run by our own runner only: " + why)
		}
	default:
		return fmt.Errorf("--suite is own, public or auto, not %q", o.suite)
	}
	tmp, err := os.MkdirTemp("", "odin-autobahn-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	server, err := serve(o.odin, tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()

	rep := report{version: server.version, cores: runtime.NumCPU(), at: time.Now().UTC()}
	if o.suite != "public" {
		begin := time.Now()
		rep.add(&column{name: "our runner", results: suite.Run(server.addr, "/echo", wanted, o.parallel), took: time.Since(begin)})
	}
	if public != nil {
		begin := time.Now()
		results, version, err := public.run(server.addr, tmp, wanted)
		if err != nil && o.suite == "public" {
			return err
		} else if err != nil { // an image that can't be pulled, say
			fmt.Println("note: run by our own runner only:", err)
		} else {
			rep.add(&column{name: version, results: results, took: time.Since(begin)})
		}
	}
	fmt.Print(rep.summary())
	if o.out != "" {
		if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(o.out, []byte(rep.text()), 0o644); err != nil {
			return err
		}
	}
	if failed := rep.failed(); failed > 0 {
		return fmt.Errorf("%d cases failed", failed)
	}
	return nil
}
