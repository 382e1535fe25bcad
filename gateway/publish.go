package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// publishTimeout bounds the wait for the broker's acks of one request.
	publishTimeout = 10 * time.Second
	// maxBatch and maxBatchBytes bound one batch.
	maxBatch      = 10_000
	maxBatchBytes = 8 << 20
	// publishFactor is how many bytes of Config.PublishBudget a request costs for
	// each of its own: read, split, and decoded.
	publishFactor = 3
	// publishFrame is what a request costs beside its body, and what one message's may
	// have beside its payload, bytes.
	publishFrame = 4096
	// heldFor is how long a request waits for a store that takes nothing, before it is
	// read and again with one message, and maxHeldBack how many may; the others are
	// answered 503 at once.
	heldFor     = 2 * time.Second
	maxHeldBack = 64
	// batchChunk is how many publications go to the broker at once.
	batchChunk = 512
	// maxKey is the longest deduplication key, bytes.
	maxKey = 256
)

// publication is one message as publishers write it.
type publication struct {
	Ch   string          `json:"ch"`
	Data json.RawMessage `json:"data"`
	Key  string          `json:"key"`
}

// published is the answer to one publication: Epoch and Seq, or Code and Message.
type published struct {
	Epoch     string `json:"epoch,omitempty"`
	Seq       uint64 `json:"seq,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Code      string `json:"code,omitempty"`
	Message   string `json:"message,omitempty"`

	status int
}

// parsePublication checks one publication of a request. raw is kept: Data is a
// part of it, byte for byte.
func (g *Gateway) parsePublication(ctx context.Context, raw []byte) (broker.Publication, *published) {
	refuse := func(code, format string, args ...any) (broker.Publication, *published) {
		g.count.PublishRefused.Add(1)
		return broker.Publication{}, &published{Code: code, Message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
	}
	var p publication
	// Checked before decoding: json.Unmarshal would repair bad UTF-8 in
	// strings and pass it in data.
	if !wire.ValidPayload(raw) {
		return refuse("bad_request", "not JSON in good UTF-8")
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return refuse("bad_request", "%v; expected {\"ch\":…,\"data\":…}", err)
	}
	switch {
	case !wire.ValidChannel(p.Ch):
		return refuse("bad_channel", "ch must be tokens of A-Z a-z 0-9 _ - joined by dots, at most %d bytes, not beginning with _sys", wire.MaxChannel)
	case !g.mayPublish(ctx, p.Ch):
		_, res := refuse("forbidden", "the API key is not for this channel")
		res.status = http.StatusForbidden
		return broker.Publication{}, res
	case len(p.Data) == 0:
		return refuse("bad_request", "data is missing")
	case len(p.Data) > g.cfg.MaxPublish:
		_, res := refuse("too_large", "data is %d bytes; at most %d are taken", len(p.Data), g.cfg.MaxPublish)
		res.status = http.StatusRequestEntityTooLarge
		return broker.Publication{}, res
	case len(p.Key) > maxKey || strings.ContainsAny(p.Key, "\r\n"):
		return refuse("bad_request", "key must be at most %d bytes, on one line", maxKey)
	}
	return broker.Publication{Channel: p.Ch, Data: p.Data, Key: p.Key}, nil
}

// answer turns the broker's word into the publisher's.
func (g *Gateway) answer(ack broker.Ack, err error) published {
	if err == nil {
		g.count.Published.Add(1)
		return published{Epoch: ack.Epoch, Seq: ack.Seq, Duplicate: ack.Duplicate, status: http.StatusOK}
	}
	if !errors.Is(err, broker.ErrBusy) {
		g.count.PublishFailed.Add(1)
	}
	p := published{Message: err.Error(), status: http.StatusServiceUnavailable}
	switch {
	case errors.Is(err, broker.ErrDown):
		p.Code = "broker_down"
	case errors.Is(err, broker.ErrUncertain), errors.Is(err, context.DeadlineExceeded):
		p.Code = "uncertain"
	case errors.Is(err, broker.ErrBusy):
		g.count.PublishHeld.Add(1)
		p.Code = "busy"
	case errors.Is(err, broker.ErrFull):
		p.Code, p.status = "store_full", http.StatusInsufficientStorage
	case errors.Is(err, broker.ErrTooLarge):
		p.Code, p.status = "too_large", http.StatusRequestEntityTooLarge
	default:
		p.Code, p.status = "broker_error", http.StatusBadGateway
	}
	return p
}

// admitPublish takes a request's share of the publish budget, or answers 503. most is
// the largest body. The caller gives the share back with done.
func (g *Gateway) admitPublish(w http.ResponseWriter, r *http.Request, most int64) (done func(), ok bool) {
	busy := func(why string) (func(), bool) {
		g.count.PublishBusy.Add(1)
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusServiceUnavailable, "busy", why+"; nothing was stored, repeat the request", 1000)
		return nil, false
	}
	if !g.awaitStore(r.Context(), time.Now().Add(heldFor)) { // before its body is read: that takes memory too
		return busy("the store holds as much as memory has room for and takes no more for the moment")
	}
	size := most
	if r.ContentLength >= 0 {
		size = min(r.ContentLength, most)
	}
	size = publishFactor * (size + publishFrame)
	if !g.publishing.TryAcquire(size) {
		return busy("too many bytes are being published at once")
	}
	return func() { g.publishing.Release(size) }, true
}

// store publishes, and until a moment again what the store did not take for now: not
// what stands before something else of its channel, which would change their order.
func (g *Gateway) store(ctx context.Context, until time.Time, ps []broker.Publication) []broker.Result {
	results := g.broker.PublishBatch(ctx, ps)
	for {
		at := refusedLast(ps, results)
		if len(at) == 0 || time.Until(until) < watchInterval {
			return results
		}
		select {
		case <-time.After(watchInterval): // it may be another node that holds it back
		case <-ctx.Done():
			return results
		}
		if !g.awaitStore(ctx, until) {
			return results
		}
		again := make([]broker.Publication, len(at))
		for i, k := range at {
			again[i] = ps[k]
		}
		for i, res := range g.broker.PublishBatch(ctx, again) {
			results[at[i]] = res
		}
	}
}

// refusedLast are the items, in order, that the store was too busy for and that nothing
// else of their channel stands behind.
func refusedLast(ps []broker.Publication, results []broker.Result) (at []int) {
	busy := func(r broker.Result) bool { return errors.Is(r.Err, broker.ErrBusy) }
	if !slices.ContainsFunc(results, busy) {
		return nil
	}
	settled := make(map[string]bool) // channels of which something behind was not refused so
	for i, r := range slices.Backward(results) {
		switch ch := ps[i].Channel; {
		case !busy(r):
			settled[ch] = true
		case !settled[ch]:
			at = append(at, i)
		}
	}
	slices.Reverse(at)
	return at
}

// awaitStore waits while the store takes nothing, until a moment at most, and reports
// whether it does. So whoever waits gets a turn when it does again, and not who asks
// most often.
func (g *Gateway) awaitStore(ctx context.Context, until time.Time) bool {
	if !g.broker.State().Throttled {
		return true
	}
	defer g.heldBack.Add(-1)
	if g.heldBack.Add(1) > maxHeldBack {
		return false
	}
	g.count.PublishWaited.Add(1)
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	look := time.NewTicker(watchInterval / 4) // it is told at each watchInterval
	defer look.Stop()
	for g.broker.State().Throttled {
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// batchBytes is the largest batch: maxBatchBytes, or what fits the publish budget.
func (g *Gateway) batchBytes() int64 {
	return min(maxBatchBytes, g.cfg.PublishBudget/publishFactor-publishFrame)
}

// admitRate takes n messages' share of the publish rate, or answers 429: nothing
// of the request was published then.
func (g *Gateway) admitRate(w http.ResponseWriter, n int) bool {
	now := time.Now()
	res := g.publishRate.ReserveN(now, n) // n is at most the burst
	wait := res.DelayFrom(now)
	if wait == 0 {
		return true
	}
	res.CancelAt(now)
	g.count.PublishLimited.Add(uint64(n))
	w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
	writeError(w, http.StatusTooManyRequests, "rate_limited",
		fmt.Sprintf("more than %d messages a second are being published; repeat the request", g.live.Load().PublishRate), int(wait.Milliseconds())+1)
	return false
}

// handlePublish stores one message: {"ch","data","key?"} → {"epoch","seq"}.
func (g *Gateway) handlePublish(w http.ResponseWriter, r *http.Request) {
	done, ok := g.admitPublish(w, r, int64(g.cfg.MaxPublish)+publishFrame)
	if !ok {
		return
	}
	defer done()
	// JSON escapes don't count as payload, so leave room for the envelope.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(g.cfg.MaxPublish)+publishFrame))
	if err != nil {
		g.refuseBody(w, err)
		return
	}
	if !g.admitRate(w, 1) {
		return
	}
	p, refused := g.parsePublication(r.Context(), body)
	if refused == nil {
		ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
		defer cancel()
		stored := g.store(ctx, time.Now().Add(heldFor), []broker.Publication{p})[0]
		res := g.answer(stored.Ack, stored.Err)
		g.await(ctx, res.Seq)
		refused = &res
	}
	if refused.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, refused.status, refused)
}

// errTooMany is the answer to a batch of more than maxBatch items.
var errTooMany = fmt.Errorf("more than %d items in one batch; send several", maxBatch)

// refuseBody answers a request that can't be read, of which nothing was
// published.
func (g *Gateway) refuseBody(w http.ResponseWriter, err error) {
	g.count.PublishRefused.Add(1)
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) || errors.Is(err, bufio.ErrTooLong) || errors.Is(err, errTooMany) {
		writeError(w, http.StatusRequestEntityTooLarge, "too_large", err.Error(), 0)
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		writeError(w, http.StatusRequestTimeout, "timeout", "the request's body did not arrive in time; nothing of it was published", 0)
		return
	}
	writeError(w, http.StatusBadRequest, "bad_request", err.Error(), 0)
}

// handlePublishBatch stores many messages in order, with a result for each. The
// body is NDJSON or a JSON array, and so is the answer.
func (g *Gateway) handlePublishBatch(w http.ResponseWriter, r *http.Request) {
	most := g.batchBytes()
	done, ok := g.admitPublish(w, r, most)
	if !ok {
		return
	}
	defer done()
	body := http.MaxBytesReader(w, r.Body, most)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var items [][]byte
	var err error
	ndjson := kind == "application/x-ndjson"
	if ndjson {
		items, err = readLines(body, g.cfg.MaxPublish+4096)
	} else {
		items, err = readArray(body)
	}
	if err != nil {
		g.refuseBody(w, err)
		return
	}
	if !g.admitRate(w, len(items)) {
		return
	}
	results := g.publishAll(r.Context(), items)
	if !ndjson {
		writeJSON(w, http.StatusOK, results)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	for i := range results {
		enc.Encode(&results[i])
	}
	out.Flush()
}

// publishAll stores the good items in order and refuses the others.
func (g *Gateway) publishAll(ctx context.Context, items [][]byte) []published {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	results := make([]published, len(items))
	until := time.Now().Add(publishTimeout / 2) // for all its chunks; the rest is for acks
	good := make([]broker.Publication, 0, min(len(items), batchChunk))
	at := make([]int, 0, cap(good))
	flush := func() {
		for i, res := range g.store(ctx, until, good) {
			results[at[i]] = g.answer(res.Ack, res.Err)
		}
		good, at = good[:0], at[:0]
	}
	for i, raw := range items {
		p, refused := g.parsePublication(ctx, raw)
		if refused != nil {
			results[i] = *refused
			continue
		}
		good, at = append(good, p), append(at, i)
		if len(good) == batchChunk {
			flush()
		}
	}
	if len(good) > 0 {
		flush()
	}
	var last uint64
	for i := range results {
		last = max(last, results[i].Seq)
	}
	g.await(ctx, last)
	return results
}

// awaitDelivery bounds how long an answer is held for this node to have been
// given the message too, so that who publishes and then subscribes here sees it.
const awaitDelivery = 100 * time.Millisecond

// await waits until this node has seen the stream up to seq, or awaitDelivery.
// It is mostly there: delivery takes about as long as the ack.
func (g *Gateway) await(ctx context.Context, seq uint64) {
	for wait := 20 * time.Microsecond; g.hub.Head() < seq && wait < awaitDelivery/2 && ctx.Err() == nil; wait *= 2 {
		time.Sleep(wait)
	}
}

func readLines(r io.Reader, maxLine int) ([][]byte, error) {
	var items [][]byte
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	for sc.Scan() {
		line := bytes.TrimSpace(sc.Bytes())
		if len(line) == 0 {
			continue
		}
		if len(items) == maxBatch {
			return nil, errTooMany
		}
		items = append(items, bytes.Clone(line))
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", len(items)+1, err)
	}
	return items, nil
}

func readArray(r io.Reader) ([][]byte, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, fmt.Errorf("%w; expected a JSON array, or Content-Type application/x-ndjson", err)
	}
	if raw == nil {
		return nil, errors.New("null; expected a JSON array")
	}
	if len(raw) > maxBatch {
		return nil, errTooMany
	}
	items := make([][]byte, len(raw))
	for i := range raw {
		items[i] = raw[i]
	}
	return items, nil
}

// hostPort gives a Host header the port loopback needs.
func hostPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "0")
}
