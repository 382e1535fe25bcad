package swarm

import (
	"math/rand/v2"
	"strconv"

	"golang.org/x/sys/unix"
)

// floodBlock is how many bytes a flooding client repeats.
const floodBlock = 16 << 10

// floodFrames are pings and commands in turn, as many as fit.
func floodFrames(rng *rand.Rand) []byte {
	var b []byte
	ping := make([]byte, 125)
	for n := 0; len(b) < floodBlock; n++ {
		if n%2 == 0 {
			b = appendFrame(b, opPing, ping, rng.Uint32())
		} else {
			b = appendFrame(b, opText, []byte(`{"op":"ping","id":`+strconv.Itoa(n)+`}`), rng.Uint32())
		}
	}
	return b
}

// flood writes until the socket is full, or this turn's share is used up.
func (w *worker) flood(i int32) {
	k := &w.conns[i]
	if w.secure[i] != nil {
		w.floodSecured(i)
		return
	}
	for range 4 {
		rest := w.floodWith[k.sent:]
		n, errno := writeRaw(k.fd, rest)
		switch {
		case errno == unix.EAGAIN:
			return // the next writable edge comes back
		case errno == unix.EINTR:
			continue
		case errno != 0:
			w.broken(i, errno)
			return
		}
		k.sent = uint32((int(k.sent) + n) % len(w.floodWith))
		if n < len(rest) {
			return
		}
	}
	w.later(i)
}

// floodSecured is flood over TLS, where a record is begun only when the one before
// is out.
func (w *worker) floodSecured(i int32) {
	for range 4 {
		if w.outs[i] != nil {
			return // the next writable edge comes back
		}
		if !w.write(i, w.floodWith) {
			return
		}
	}
	w.later(i)
}

// oncePerSecond is what a slow or dripping client does a second.
func (w *worker) oncePerSecond(i int32) {
	k := &w.conns[i]
	if k.role == Slow {
		if w.cfg.SlowRead > 0 {
			w.readSome(i, w.cfg.SlowRead)
		}
		return
	}
	from := w.dripWith
	if k.flags&flagDripHead != 0 {
		from = w.heads.request(w.attempt(i))
	}
	if int(k.sent) < len(from) && w.write(i, from[k.sent:k.sent+1]) {
		k.sent++
	}
}

// rally begins volleys, n in the air, one on each open connection and around again
// if those are fewer, or ends them: 0. Each answer is followed by one more on its
// connection (conn.go).
func (w *worker) rally(n int) {
	w.volleys = n
	for sent := 0; sent < n; {
		was := sent
		for i := range w.conns {
			if k := &w.conns[i]; sent < n && k.state == open && k.role == Normal {
				w.write(int32(i), w.volleyed)
				sent++
			}
		}
		if sent == was { // nobody is there
			return
		}
	}
}
