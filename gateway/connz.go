package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// connzSlice is how many slots a shard looks at before it goes on with its
	// work: the lag of a connection with many subscriptions takes a while.
	connzSlice = 256
	// connzDefault and connzMost bound the connections shown.
	connzDefault = 100
	connzMost    = 10_000
	connzTimeout = 10 * time.Second
)

// connInfo is one connection as /connz shows it.
type connInfo struct {
	Conn          string  `json:"conn"`
	Addr          string  `json:"addr"`
	State         string  `json:"state"`
	AgeSeconds    float64 `json:"age_s"`
	Subscriptions int     `json:"subscriptions"` // wildcards included
	Lag           uint32  `json:"lag"`           // messages not yet written to it
	Strikes       uint8   `json:"strikes"`
	Blocked       bool    `json:"blocked"`   // its socket is full
	Held          bool    `json:"held"`      // not written to for want of backlog budget
	Conflated     bool    `json:"conflated"` // because it was slow
	Catching      bool    `json:"catching_up"`
	UnackedBytes  int64   `json:"unacked_bytes"` // kernel memory charged for it, an upper bound
	SendBuffer    int     `json:"send_buffer"`   // SO_SNDBUF as set
	IdleSeconds   float64 `json:"idle_s"`        // since it last sent something
	TakenSeconds  float64 `json:"taken_s"`       // since its socket last took something
	Warnings      uint8   `json:"rate_warnings"`
	Errors        uint8   `json:"errors"`
}

// connzOrders are the orders of /connz, each with what comes first.
var connzOrders = map[string]func(a, b *connInfo) int{
	"lag":           func(a, b *connInfo) int { return cmp.Compare(b.Lag, a.Lag) },
	"age":           func(a, b *connInfo) int { return cmp.Compare(b.AgeSeconds, a.AgeSeconds) },
	"idle":          func(a, b *connInfo) int { return cmp.Compare(b.IdleSeconds, a.IdleSeconds) },
	"subscriptions": func(a, b *connInfo) int { return cmp.Compare(b.Subscriptions, a.Subscriptions) },
	"unacked":       func(a, b *connInfo) int { return cmp.Compare(b.UnackedBytes, a.UnackedBytes) },
}

// handleConnz lists connections: GET /connz?sort=lag&limit=100.
func (g *Gateway) handleConnz(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	sort := query.Get("sort")
	if sort == "" {
		sort = "lag"
	}
	order, ok := connzOrders[sort]
	if !ok {
		names := make([]string, 0, len(connzOrders))
		for name := range connzOrders {
			names = append(names, name)
		}
		slices.Sort(names)
		writeError(w, http.StatusBadRequest, "bad_request", "sort must be one of "+strings.Join(names, ", "), 0)
		return
	}
	limit := connzDefault
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > connzMost {
			writeError(w, http.StatusBadRequest, "bad_request", fmt.Sprintf("limit must be from 1 to %d", connzMost), 0)
			return
		}
		limit = n
	}
	ctx, cancel := context.WithTimeout(r.Context(), connzTimeout)
	defer cancel()
	all := []connInfo{} // an array also when there are none
	for _, s := range g.shards {
		some, err := s.connz(ctx, order, limit)
		if err != nil {
			writeError(w, http.StatusServiceUnavailable, "busy", "a shard did not answer: "+err.Error(), 1000)
			return
		}
		all = append(all, some...)
	}
	slices.SortStableFunc(all, func(a, b connInfo) int { return order(&a, &b) })
	writeJSON(w, http.StatusOK, map[string]any{
		"sort": sort, "total": g.gate.InUse(), "connections": all[:min(limit, len(all))],
	})
}

// connz returns the first limit of a shard's connections in an order; from any
// goroutine. The shard gives it a slice of slots at a time.
func (s *shard) connz(ctx context.Context, order func(a, b *connInfo) int, limit int) ([]connInfo, error) {
	found := []connInfo{}
	for at := uint32(0); ; {
		next := make(chan uint32, 1)
		if !s.post(func(s *shard) {
			end := min(at+connzSlice, s.slots.size())
			for ; at < end; at++ {
				if c := s.slots.at(at); c.state == stateOpen {
					found = append(found, s.connInfo(connRef{at, c.gen}, c))
				}
			}
			if at >= s.slots.size() {
				at = 0 // the end
			}
			next <- at
		}) {
			return nil, context.Canceled // the shard has ended
		}
		select {
		case at = <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if len(found) > limit {
			slices.SortStableFunc(found, func(a, b connInfo) int { return order(&a, &b) })
			found = found[:limit]
		}
		if at == 0 {
			return found, nil
		}
	}
}

func (s *shard) connInfo(r connRef, c *slot) connInfo {
	since := func(t uint32) float64 { return (time.Duration(s.now-t) * tick).Seconds() }
	info := connInfo{
		Conn: s.connID(r), State: "open", AgeSeconds: since(c.opened),
		Subscriptions: s.subCount(c), Lag: s.lag(c), Strikes: c.strikes,
		Blocked: c.flags&flagBlocked != 0, Held: c.flags&flagHeld != 0,
		Conflated: c.flags&flagConflated != 0, Catching: c.flags&flagFetching != 0,
		UnackedBytes: int64(c.charge) * page, SendBuffer: s.g.cfg.SndBuf << c.sendShift,
		IdleSeconds: since(c.readAt), TakenSeconds: since(c.wroteAt),
		Warnings: c.warnings, Errors: c.errs,
	}
	if addr, err := s.loop.Peer(int(c.fd)); err == nil {
		info.Addr = addr.String()
	}
	return info
}
