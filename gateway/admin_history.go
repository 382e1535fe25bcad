package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// historyDefault and historyMost bound the messages of one answer, and
	// historyBytes their data.
	historyDefault = 100
	historyMost    = 1000
	historyBytes   = 1 << 20
	// historyAtOnce bounds the history requests under way.
	historyAtOnce = 4
)

// historyMessage is one message of a history answer, with the numbers and bytes
// its subscribers were given.
type historyMessage struct {
	Seq  uint64          `json:"seq"`
	Prev uint64          `json:"prev"`
	TS   int64           `json:"ts"`
	D    json.RawMessage `json:"d"`
}

// historyGap says what an answer does not have, as a gap frame does.
type historyGap struct {
	After  uint64 `json:"after"`
	Before uint64 `json:"before"`
	Why    string `json:"why"`
}

// historyAnswer is the answer of GET /v1/channels/{ch}/history.
type historyAnswer struct {
	Channel  string           `json:"ch"`
	Epoch    string           `json:"epoch"`
	Messages []historyMessage `json:"messages"`
	Gaps     []historyGap     `json:"gaps,omitempty"`
	More     bool             `json:"more"` // ask again with from=next
	Next     uint64           `json:"next"`
}

// handleHistory reads a channel's stored messages:
// GET /v1/channels/{ch}/history?epoch=E&from=SEQ&to=SEQ&limit=N.
func (g *Gateway) handleHistory(w http.ResponseWriter, r *http.Request) {
	name, query := r.PathValue("ch"), r.URL.Query()
	bad := func(code, format string, args ...any) {
		writeError(w, http.StatusBadRequest, code, fmt.Sprintf(format, args...), 0)
	}
	if !wire.ValidChannel(name) {
		bad("bad_channel", "%q is no channel", name)
		return
	}
	req := broker.HistoryRequest{Channel: name, From: 1, To: math.MaxUint64, Messages: historyDefault, Bytes: historyBytes}
	for key, to := range map[string]*uint64{"from": &req.From, "to": &req.To} {
		if text := query.Get(key); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				bad("bad_request", "%s must be a sequence number", key)
				return
			}
			*to = n
		}
	}
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > historyMost {
			bad("bad_request", "limit must be from 1 to %d", historyMost)
			return
		}
		req.Messages = n
	}
	req.From = max(req.From, 1)
	if req.From > req.To {
		bad("bad_request", "from must not be beyond to")
		return
	}
	if !g.reading.TryAcquire(1) {
		writeError(w, http.StatusServiceUnavailable, "busy", "too many histories are being read at once; repeat the request", 1000)
		return
	}
	defer g.reading.Release(1)
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	page, err := g.broker.History(ctx, req)
	switch {
	case errors.Is(err, broker.ErrDown):
		writeError(w, http.StatusServiceUnavailable, "broker_down", err.Error(), 1000)
		return
	case err != nil:
		writeError(w, http.StatusBadGateway, "broker_error", err.Error(), 0)
		return
	}
	if want := query.Get("epoch"); want != "" && want != page.Epoch {
		writeError(w, http.StatusConflict, "epoch", "the stream was made anew: its epoch is "+page.Epoch+", and positions of "+want+" are void", 0)
		return
	}
	if req.From > page.Last+1 {
		bad("bad_position", "from is beyond the stream's last sequence %d", page.Last)
		return
	}
	writeJSON(w, http.StatusOK, g.historyAnswer(&req, &page))
}

func (g *Gateway) historyAnswer(req *broker.HistoryRequest, page *broker.Page) historyAnswer {
	a := historyAnswer{
		Channel: req.Channel, Epoch: page.Epoch, More: page.More, Messages: []historyMessage{},
		Next: min(req.To, max(page.Last, req.From-1)) + 1,
	}
	if page.First > req.From && (len(page.Messages) == 0 || page.Messages[0].Prev == 0 && page.Messages[0].Seq > req.From) {
		until := min(page.First, page.Last+1)
		if len(page.Messages) > 0 {
			until = page.Messages[0].Seq
		}
		a.Gaps = append(a.Gaps, historyGap{req.From - 1, min(until-1, req.To) + 1, channel.WhyEvicted})
	}
	for i := range page.Messages {
		m := &page.Messages[i]
		if len(m.Data) > g.cfg.MaxPublish || !wire.ValidPayload(m.Data) {
			a.Gaps = append(a.Gaps, historyGap{m.Prev, m.Seq + 1, channel.WhyInvalid})
		} else {
			a.Messages = append(a.Messages, historyMessage{m.Seq, m.Prev, m.Time, m.Data})
		}
		if page.More {
			a.Next = m.Seq + 1
		}
	}
	return a
}
