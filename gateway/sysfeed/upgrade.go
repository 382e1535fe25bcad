package sysfeed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// ServeHTTP upgrades a request and serves the connection to its end. Rules and
// refusals are those of the public port.
func (f *Feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, ref := wire.ParseHead(headOf(r))
	if ref == nil {
		ref = wire.CheckUpgrade(&req)
	}
	var key string
	if ref == nil && f.cfg.Admit != nil {
		key, ref = f.cfg.Admit(r)
	}
	if ref != nil {
		refuse(w, ref)
		return
	}
	defer f.taken.Add(-1)
	if f.taken.Add(1) > int64(f.cfg.Most) {
		refuse(w, &wire.Refusal{
			Status: http.StatusServiceUnavailable, Code: "busy", Message: "too many connections follow this already",
			Header: [][2]string{{"Retry-After", "5"}},
		})
		return
	}
	answer, err := req.AppendUpgrade(nil)
	if err != nil {
		refuse(w, &wire.Refusal{Status: http.StatusBadRequest, Code: "bad_request", Message: "the handshake can't be answered"})
		return
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, &wire.Refusal{Status: http.StatusInternalServerError, Code: "internal", Message: "the connection can't be taken over"})
		return
	}
	first, _ := rw.Reader.Peek(rw.Reader.Buffered()) // what is buffered can be had
	_ = nc.SetDeadline(time.Time{})                  // net/http's; each read and write has its own
	c := newConn(f, nc, key)
	if !f.enter(c) {
		_ = nc.SetWriteDeadline(time.Now().Add(closeWait))
		_, _ = nc.Write(wire.AppendClose(answer, closeRestart, "shutting down"))
		nc.Close()
		return
	}
	defer f.leave(c)
	_ = nc.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := nc.Write(answer); err != nil {
		nc.Close()
		return
	}
	c.serve(bytes.Clone(first))
}

// headOf writes a request's head as it may have come, so that it is judged by the
// same parser as those of the public port.
func headOf(r *http.Request) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/%d.%d\r\nHost: %s\r\n", r.Method, r.RequestURI, r.ProtoMajor, r.ProtoMinor, r.Host)
	_ = r.Header.Write(&b) // to memory
	b.WriteString("\r\n")
	return b.Bytes()
}

// refuse answers a request that is not upgraded.
func refuse(w http.ResponseWriter, ref *wire.Refusal) {
	h := w.Header()
	for _, line := range ref.Header {
		h.Set(line[0], line[1])
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(ref.Status)
	json.NewEncoder(w).Encode(map[string]string{"code": ref.Code, "message": ref.Message})
}
