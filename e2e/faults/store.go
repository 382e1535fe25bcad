//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/odin-ws/odin/internal/ledger"
)

func diskFull(r *run) {
	disk := filepath.Join(r.dir, "disk")
	r.must(os.Mkdir(disk, 0o755))
	r.sh("mount", "-t", "tmpfs", "-o", "size=64m", "odin-faults", disk)
	r.atEnd(func() { quiet("umount", disk) })
	ballast := filepath.Join(disk, "ballast")
	r.must(os.WriteFile(ballast, make([]byte, 40<<20), 0o644))
	n := r.node("a", "--data-dir", filepath.Join(disk, "data"))
	n.waitReady()
	chs := channels(4)
	f := r.fleet(fleetOptions{n: 6, urls: rotate(n), channels: some(chs, 2), from: r.seed(n, chs)})
	p := r.publish([]*node{n}, chs, 500, 16<<10)
	at := time.Now()
	full := r.within(at, 60*time.Second, "publishers told that the store is full", func() bool {
		s := p.said()
		return s["store_full"]+s["broker_down"] > 20
	})
	p.rate.Store(20)
	time.Sleep(time.Duration(r.long(10, 3)) * time.Second) // full for a while
	r.say("full after %.1f s; publishers were told %v; clients have %d messages", full.Seconds(), p.said(), f.members[0].page.Received())
	at = time.Now()
	r.must(os.Remove(ballast))
	d := f.recovers(p, at, at, r.row.limit)
	ready := r.within(at, r.row.limit, "/readyz 200", n.ready)
	r.say("well again %.1f s after space came back, ready after %.1f s", d.Seconds(), ready.Seconds())
	r.note("publishers told: %v", p.said())
	f.finish(p)
}

// firstStored is the first number of a channel that is still stored.
func (n *node) firstStored(ch string) uint64 {
	resp, err := n.api.Get("http://" + n.admin + "/v1/channels/" + ch + "/history?limit=1")
	n.r.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	n.r.must(err)
	var page struct{ Messages []struct{ Seq uint64 } }
	n.r.must(json.Unmarshal(b, &page))
	n.r.want(resp.StatusCode == http.StatusOK && len(page.Messages) == 1, "history of %s: %s %.200s", ch, resp.Status, b)
	return page.Messages[0].Seq
}

func retention(r *run) {
	b := r.broker("nats", "", "")
	n := []*node{r.node("a", "--nats-url", b.url(), "--retention", "1MiB"), r.node("b", "--nats-url", b.url(), "--retention", "1MiB")}
	waitReady(n...)
	chs := channels(4)
	f := r.fleet(fleetOptions{n: 40, urls: rotate(n[0]), channels: some(chs, 2), from: r.seed(n[1], chs), maxBackoff: 2 * time.Second})
	p := r.publish(n[1:], chs, loadRate, 2000)
	time.Sleep(time.Second)
	n[0].kill()
	r.within(time.Now(), 5*time.Second, "all clients cut off", func() bool { return f.count(func(m *member) bool { return m.up.Load() }) == 0 })
	had := make([]map[string]uint64, len(f.members))
	for i, m := range f.members {
		had[i] = map[string]uint64{}
		for ch, at := range m.c.Positions() {
			had[i][ch] = at.Seq
		}
	}
	before := p.acked.Load()
	p.rate.Store(1000)
	r.within(time.Now(), 60*time.Second, "three times the retention published", func() bool { return p.acked.Load() > before+3*(1<<20)/2000 })
	p.stop(10 * time.Second)
	// Nobody publishes: what is stored stays what it is.
	var want uint64
	for i, m := range f.members {
		for _, ch := range m.channels {
			lost := r.book.Acknowledged(ch, had[i][ch], n[1].firstStored(ch))
			r.want(lost > 0, "%s: client %d at %d has missed nothing", ch, i, had[i][ch])
			want += lost
		}
	}
	at := time.Now()
	n[0].restart()
	n[0].waitReady()
	r.recovered(r.within(at, r.row.limit, "everybody given the last of each channel", func() bool {
		return f.all(func(m *member) bool {
			most := uint64(0)
			for _, ch := range m.channels {
				most = max(most, r.book.Last(ch))
			}
			return m.page.Last() >= most
		})
	}))
	rep := f.finish(p)
	if rep.Told != want {
		r.fault("clients were told that they miss %d messages, and %d were gone", rep.Told, want)
	}
	r.note("told of exactly the %d messages that were gone", want)
}

func recreated(r *run) {
	b := r.broker("nats", "", "")
	n := []*node{r.node("a", "--nats-url", b.url()), r.node("b", "--nats-url", b.url())}
	waitReady(n...)
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(n...), channels: someWild(chs, 2), from: r.seed(n[0], chs), wrap: true})
	p := r.publish(n, chs, loadRate, loadSize)
	time.Sleep(2 * time.Second)
	nc, err := nats.Connect(b.url())
	r.must(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	r.must(err)
	r.must(js.DeleteStream(context.Background(), "ODIN"))
	at := time.Now()
	for i, m := range f.members {
		if i%3 == 0 {
			m.reset() // comes with positions of a stream that is no more
		}
	}
	r.within(at, r.row.limit, "everybody told of the new epoch", func() bool {
		return f.all(func(m *member) bool { return m.page.Epochs() >= len(m.channels) })
	})
	d := f.recovers(p, at, at, r.row.limit)
	r.say("well again %.2f s after the deletion", d.Seconds())
	rep := f.finish(p)
	if rep.Told > 0 {
		r.note("%d messages of the new epoch were told of as missed", rep.Told)
	}
}

func poison(r *run) {
	b := r.broker("nats", "", "max_payload: 2MB\n")
	n := []*node{r.node("a", "--nats-url", b.url()), r.node("b", "--nats-url", b.url())}
	waitReady(n...)
	chs := channels(4)
	f := r.fleet(fleetOptions{n: 40, urls: rotate(n...), channels: someWild(chs, 2), from: r.seed(n[0], chs)})
	p := r.publish(n, chs, loadRate, loadSize)
	time.Sleep(time.Second)
	nc, err := nats.Connect(b.url())
	r.must(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	r.must(err)
	st, err := n[0].stats()
	r.must(err)
	at := time.Now()
	bad := 0
	for round := range 5 {
		for i, data := range [][]byte{
			[]byte(strings.Repeat("x", 1<<20)),                                               // 1 MiB
			[]byte(`"` + strings.Repeat("y", 1<<20-2) + `"`),                                 // 1 MiB of good JSON
			[]byte("not JSON"), []byte("\xff\xfe"), {}, []byte(`{"a":"` + "\xc3\x28" + `"}`), // not UTF-8
		} {
			ch := chs[i%len(chs)]
			ack, err := js.Publish(context.Background(), "odin.in."+ch, data)
			r.must(err)
			r.book.Acked(st.Broker.Epoch, ch, ack.Sequence, ledger.Sum(data))
			bad++
		}
		// Good ones without any header, past the gateway.
		good := fmt.Appendf(nil, `{"native":%d}`, round)
		m := nats.NewMsg("odin.in." + chs[round%len(chs)])
		m.Data = good
		ack, err := js.PublishMsg(context.Background(), m)
		r.must(err)
		r.book.Acked(st.Broker.Epoch, chs[round%len(chs)], ack.Sequence, ledger.Sum(good))
		// Forged headers of the broker's own, and names no client may use.
		forged := nats.NewMsg("odin.in." + chs[round%len(chs)])
		forged.Data = fmt.Appendf(nil, `{"forged":%d}`, round)
		forged.Header.Set("Nats-Sequence", "1")
		forged.Header.Set("Nats-Last-Sequence", "999999")
		forged.Header.Set("Nats-Stream", "NOSUCH")
		ack, err = js.PublishMsg(context.Background(), forged)
		r.must(err)
		r.book.Acked(st.Broker.Epoch, chs[round%len(chs)], ack.Sequence, ledger.Sum(forged.Data))
		for _, subject := range []string{"odin.in._sys.x", "odin.in.a$b", "odin.in.ü", "odin.in." + strings.Repeat("long.", 40) + "x"} {
			_, err := js.Publish(context.Background(), subject, []byte(`{}`))
			r.must(err)
		}
	}
	f.recovers(p, at, at, r.row.limit)
	for _, x := range n {
		s, err := x.stats()
		r.must(err)
		if s.Invalid != uint64(bad) || s.BadChannel != 5*4 {
			r.fault("%s counted %d invalid messages and %d of bad channels, want %d and %d", x.name, s.Invalid, s.BadChannel, bad, 5*4)
		}
	}
	rep := f.finish(p)
	if rep.Told == 0 {
		r.fault("nobody was told of the poison")
	}
	r.note("%d poisoned messages", bad)
}
