//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mistakes are put into a copy of the gateway's source: a handler that panics
// before its command is carried out, one that panics and one that sleeps where the
// broker is asked, and a request head that panics.
var mistakes = []struct{ file, before, add string }{
	{"gateway/commands.go", "	switch cmd.Op {\n	case \"ping\":", `	if len(cmd.Ch) == 1 && cmd.Ch[0] == "boom.loop" {
		panic("a handler that panics")
	}
	if len(cmd.Ch) == 2 && cmd.Ch[1] == "boom.half" { // half of it was done
		own := *cmd
		own.Ch = cmd.Ch[:1]
		s.sub(r, c, &own, reach{})
		panic("a handler that panics half-way")
	}
`},
	{"gateway/reach.go", "	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)\n	defer cancel()\n	k.epoch = g.hub.Epoch()\n", `	for _, name := range cmd.Ch {
		switch name {
		case "boom.pool":
			panic("a worker that panics")
		case "sleep.pool":
			time.Sleep(30 * time.Second)
		}
	}
`},
	{"gateway/handshake.go", "	echo := false\n	switch {\n", `	if req.Path == "/boom" {
		panic("a request that panics")
	}
`},
}

// mistaken builds a binary with the mistakes in it.
func (r *run) mistaken() string {
	overlay := map[string]map[string]string{"Replace": {}}
	for i, m := range mistakes {
		file := filepath.Join(r.source, m.file)
		b, err := os.ReadFile(file)
		r.must(err)
		r.want(strings.Count(string(b), m.before) == 1, "%s has changed: where is %q?", m.file, m.before)
		to := filepath.Join(r.dir, fmt.Sprintf("mistake%d.go", i))
		r.must(os.WriteFile(to, []byte(strings.Replace(string(b), m.before, m.add+m.before, 1)), 0o644))
		overlay["Replace"][file] = to
	}
	b, err := json.Marshal(overlay)
	r.must(err)
	file, bin := filepath.Join(r.dir, "overlay.json"), filepath.Join(r.dir, "odin-mistaken")
	r.must(os.WriteFile(file, b, 0o644))
	cmd := exec.Command("go", "build", "-C", r.source, "-overlay", file, "-o", bin, "./cmd/odin")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.must(fmt.Errorf("go build: %w\n%s", err, out))
	}
	return bin
}

// panics: a mistake of ours costs the connection that ran into it.
func panics(r *run) {
	own := *r.rig
	own.odin = r.mistaken()
	r.rig = &own
	n := r.node("a")
	n.waitReady()
	b := r.bystanders(n, false)
	b.begin(n)
	a := r.attack(n)
	sub := func(names string) []byte { return clientFrame(1, `{"op":"sub","id":1,"ch":[`+names+`]}`) }
	const each = 50
	for range each {
		a.add(attacker{kind: "panics on the loop", open: true, first: sub(`"boom.loop"`)})
		a.add(attacker{kind: "panics half-way", open: true, first: sub(`"fault.c0","boom.half"`)})
		a.add(attacker{kind: "panics in the pool", open: true, first: sub(`"boom.pool"`)})
		a.add(attacker{kind: "panics in its head", first: []byte(strings.Replace(n.head(), "GET /ws ", "GET /boom ", 1))})
	}
	a.wait()
	a.cutAt("panics on the loop", "1011", 0, 5*time.Second)
	a.cutAt("panics half-way", "1011", 0, 5*time.Second)
	a.cutAt("panics in the pool", "1011", 0, 5*time.Second)
	a.cutAt("panics in its head", "500", 0, 5*time.Second)
	st, err := n.stats()
	r.must(err)
	if st.LoopPanics != 3*each || st.Panics == 0 {
		r.fault("%d panics on the loops counted of %d, %d in the pool", st.LoopPanics, 3*each, st.Panics)
	}
	// Asleep for 30 s in the pool: the others of the same shard and pool go on.
	at := time.Now()
	err = callWithin(n, "sleep.pool", 40*time.Second)
	slept := time.Since(at)
	if err != nil || slept < 29*time.Second || slept > 35*time.Second {
		r.fault("who had to wait 30 s was answered after %v: %v", slept, err)
	}
	r.note("%d panics on the loops, %d in the pool, one handler asleep for %.0f s", st.LoopPanics, st.Panics, slept.Seconds())
	b.end(50*time.Millisecond, 200*time.Millisecond)
	b.f.finish(b.p)
}
