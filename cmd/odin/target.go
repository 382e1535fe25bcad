package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/jetstream"
	"github.com/odin-ws/odin/internal/market"
)

// target is where events are published: a gateway's admin port, NATS, or the
// broker in this process. Not for concurrent use.
type target interface {
	// publish stores events in order and says what became of each;
	// len(outcomes) == len(events). An error means that the whole batch failed;
	// it is a *batchError.
	publish(ctx context.Context, events []market.Event) ([]outcome, error)
	// where it is, for messages.
	where() string
	close()
}

// outcome is an ack, or why there is none.
type outcome struct {
	Epoch     string `json:"epoch,omitempty"`
	Seq       uint64 `json:"seq,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Code      string `json:"code,omitempty"` // "" for an ack
	Message   string `json:"message,omitempty"`
}

// Codes that this side gives; others come from the gateway.
const (
	codeUnreachable = "unreachable" // no connection: nothing was sent
	codeUncertain   = "uncertain"   // sent, and no answer: stored or not
	codeBrokerDown  = "broker_down" // not stored
	codeFull        = "store_full"  // not stored
	codeBusy        = "busy"        // not stored; memory is short
	codeTooLarge    = "too_large"
)

// retryable reports whether an event refused with code was not stored and may
// be taken later.
func retryable(code string) bool {
	switch code {
	case codeUnreachable, codeBrokerDown, codeFull, codeBusy, "draining", "rate_limited":
		return true
	}
	return false
}

// batchError is the failure of a whole batch.
type batchError struct {
	code   string
	retry  bool          // nothing was stored and it may work later
	unread bool          // the request made no sense to the other side: nothing was stored
	after  time.Duration // how long the other side asked to wait, 0 for nothing said
	err    error
}

func (e *batchError) outcome() outcome { return outcome{Code: e.code, Message: e.Error()} }

func (e *batchError) Error() string { return e.err.Error() }
func (e *batchError) Unwrap() error { return e.err }

// targetFlags are how publish and feed are told where to.
type targetFlags struct {
	adminAddr, natsURL string
	apiKey             secretFlag
}

func (t *targetFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&t.adminAddr, "admin-addr", "127.0.0.1:8081", "admin port of a running gateway")
	t.apiKey.add(cmd, "api-key", "API key for the admin port")
	fs.StringVar(&t.natsURL, "nats-url", "", "publish straight to these NATS servers, past the gateway, e.g. nats://127.0.0.1:4222")
}

// open connects nowhere yet: an absent gateway shows at the first publish.
func (t *targetFlags) open(cmd *cobra.Command) (target, error) {
	admin, nats := cmd.Flags().Changed("admin-addr"), cmd.Flags().Changed("nats-url")
	if admin && nats {
		return nil, usagef("--admin-addr and --nats-url are two ways to the same stream: give one")
	}
	if t.natsURL != "" && !admin {
		return newNATSTarget(t.natsURL)
	}
	base, err := adminURL(t.adminAddr)
	if err != nil {
		return nil, usageError{err}
	}
	key, err := t.apiKey.value(cmd)
	if err != nil {
		return nil, err
	}
	return newAdminTarget(base, key), nil
}

// adminURL makes a base URL of what people write for an address.
func adminURL(addr string) (string, error) {
	if strings.Contains(addr, "://") {
		u, err := url.Parse(addr)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return "", fmt.Errorf("--admin-addr: want HOST:PORT or an http URL, not %q", addr)
		}
		return strings.TrimSuffix(addr, "/"), nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return "", fmt.Errorf("--admin-addr: want HOST:PORT, not %q", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // where a server that listens everywhere is found
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// adminTarget publishes over one keep-alive connection to the admin port.
type adminTarget struct {
	base, key string
	client    *http.Client
	body      []byte // the request, reused
}

func newAdminTarget(base, key string) *adminTarget {
	tr := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxConnsPerHost:     1,
		MaxIdleConnsPerHost: 1,
		DisableCompression:  true,
	}
	return &adminTarget{base: base, key: key, client: &http.Client{Transport: tr, Timeout: 30 * time.Second}}
}

func (a *adminTarget) where() string { return a.base }
func (a *adminTarget) close()        { a.client.CloseIdleConnections() }

// appendItem writes one event as the API takes it.
// encoding/json would compact and escape the payload; here its bytes stay.
func appendItem(b []byte, e market.Event) []byte {
	b = append(b, `{"ch":`...)
	b = appendJSONString(b, e.Channel)
	if e.Key != "" {
		b = append(b, `,"key":`...)
		b = appendJSONString(b, e.Key)
	}
	b = append(b, `,"data":`...)
	b = append(b, e.Data...)
	return append(b, '}')
}

func appendJSONString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string can't fail
	return append(b, quoted...)
}

// oneLine reports whether data holds no line break. JSON allows them between
// tokens; in NDJSON they would end the item.
func oneLine(data []byte) bool { return bytes.IndexByte(data, '\n') < 0 }

func (a *adminTarget) publish(ctx context.Context, events []market.Event) ([]outcome, error) {
	a.body = a.body[:0]
	kind, open, sep, end := "application/x-ndjson", "", "\n", "\n"
	array := slices.ContainsFunc(events, func(e market.Event) bool { return !oneLine(e.Data) })
	if array {
		kind, open, sep, end = "application/json", "[", ",", "]"
	}
	a.body = append(a.body, open...)
	for i, e := range events {
		if i > 0 {
			a.body = append(a.body, sep...)
		}
		a.body = appendItem(a.body, e)
	}
	a.body = append(a.body, end...)
	res, err := a.post(ctx, "/v1/publish/batch", kind)
	if err != nil {
		return a.apart(ctx, events, err)
	}
	defer func() { _ = res.Body.Close() }()
	return a.results(res.Body, array, len(events)), nil
}

// apart handles a refused batch. When the gateway could not read the request
// (nothing of it is stored then), it may be for one event, say one that is far
// too long: each half is tried by itself, down to the event that is to blame.
func (a *adminTarget) apart(ctx context.Context, events []market.Event, err error) ([]outcome, error) {
	var whole *batchError
	if !errors.As(err, &whole) || !whole.unread {
		return nil, err
	}
	if len(events) == 1 {
		return []outcome{whole.outcome()}, nil
	}
	var out []outcome
	for half := range slices.Chunk(events, (len(events)+1)/2) {
		got, err := a.publish(ctx, half)
		if errors.As(err, &whole) {
			got = slices.Repeat([]outcome{whole.outcome()}, len(half))
		}
		out = append(out, got...)
	}
	return out, nil
}

// publishOne stores one event.
func (a *adminTarget) publishOne(ctx context.Context, e market.Event) (outcome, error) {
	a.body = appendItem(a.body[:0], e)
	res, err := a.post(ctx, "/v1/publish", "application/json")
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = res.Body.Close() }()
	var o outcome
	if err := json.NewDecoder(res.Body).Decode(&o); err != nil {
		return outcome{}, &batchError{code: codeUncertain, err: fmt.Errorf("%s sent no ack: %w", a.base, err)}
	}
	return o, nil
}

// post sends a.body and returns the answer if it is a 2xx.
func (a *adminTarget) post(ctx context.Context, path, kind string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+path, bytes.NewReader(a.body))
	if err != nil {
		return nil, &batchError{code: codeUnreachable, err: err}
	}
	req.Header.Set("Content-Type", kind)
	if a.key != "" {
		req.Header.Set("Authorization", "Bearer "+a.key)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return nil, a.transportError(err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	return nil, a.statusError(res)
}

func (a *adminTarget) transportError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &batchError{code: codeUnreachable, retry: true, err: hinted{
			fmt.Errorf("no gateway answers at %s: %w", a.base, op.Err),
			"Start one with 'odin serve', or say where it is with --admin-addr or --nats-url.",
		}}
	}
	return &batchError{code: codeUncertain, err: fmt.Errorf(
		"the connection to %s broke before an answer came; what was sent may be stored or not: %w", a.base, err)}
}

func (a *adminTarget) statusError(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	var o outcome
	if json.Unmarshal(text, &o) != nil || o.Code == "" {
		o = outcome{Code: fmt.Sprintf("http_%d", res.StatusCode), Message: strings.TrimSpace(string(text))}
	}
	e := &batchError{code: o.Code, err: fmt.Errorf("%s answered %d, %s: %s", a.base, res.StatusCode, o.Code, cmp.Or(o.Message, "no more was said"))}
	switch res.StatusCode {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		e.retry = o.Code != codeUncertain
		if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
			e.after = time.Duration(s) * time.Second
		}
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		e.unread = true
	case http.StatusUnauthorized, http.StatusForbidden:
		e.err = hinted{e.err, "Give the publish key with --api-key-file, ODIN_API_KEY or --api-key."}
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		e.err = hinted{e.err, "Is that the admin port? --admin-addr wants the gateway's, 127.0.0.1:8081 by default."}
	}
	return e
}

// results reads n outcomes, as lines or one array. What is missing is uncertain.
func (a *adminTarget) results(body io.Reader, array bool, n int) []outcome {
	dec := json.NewDecoder(bufio.NewReader(body))
	var got []outcome
	var err error
	if array {
		err = dec.Decode(&got)
	} else {
		for len(got) < n && err == nil {
			var o outcome
			if err = dec.Decode(&o); err == nil {
				got = append(got, o)
			}
		}
	}
	_, _ = io.Copy(io.Discard, io.MultiReader(dec.Buffered(), body)) // so that the connection is kept
	got = got[:min(n, len(got))]
	for len(got) < n {
		got = append(got, outcome{Code: codeUncertain, Message: fmt.Sprintf("the answer ended early: %v", err)})
	}
	return got
}

// batchPublisher is the part of a broker that publishing needs.
type batchPublisher interface {
	PublishBatch(ctx context.Context, ps []broker.Publication) []broker.Result
}

// brokerTarget publishes to a broker in this process, or to NATS.
type brokerTarget struct {
	to   batchPublisher
	name string
	done func()
	ps   []broker.Publication // reused
}

func (b *brokerTarget) where() string { return b.name }

func (b *brokerTarget) close() {
	if b.done != nil {
		b.done()
	}
}

func (b *brokerTarget) publish(ctx context.Context, events []market.Event) ([]outcome, error) {
	b.ps = b.ps[:0]
	for _, e := range events {
		b.ps = append(b.ps, broker.Publication{Channel: e.Channel, Data: e.Data, Key: e.Key})
	}
	out := make([]outcome, len(events))
	for i, r := range b.to.PublishBatch(ctx, b.ps) {
		out[i] = outcome{Epoch: r.Ack.Epoch, Seq: r.Ack.Seq, Duplicate: r.Ack.Duplicate}
		if r.Err != nil {
			out[i] = outcome{Code: brokerCode(r.Err), Message: r.Err.Error()}
		}
	}
	return out, nil
}

func brokerCode(err error) string {
	switch {
	case errors.Is(err, broker.ErrDown):
		return codeBrokerDown
	case errors.Is(err, broker.ErrFull):
		return codeFull
	case errors.Is(err, broker.ErrBusy):
		return codeBusy
	case errors.Is(err, broker.ErrTooLarge):
		return codeTooLarge
	case errors.Is(err, broker.ErrUncertain), errors.Is(err, context.DeadlineExceeded):
		return codeUncertain
	}
	return "error"
}

// newNATSTarget connects to NATS and makes sure that a stream listens there.
func newNATSTarget(natsURL string) (target, error) {
	p, err := jetstream.NewPublisher(natsURL)
	if err != nil {
		var unread *url.Error // quotes, as what it wraps does
		if errors.As(err, &unread) {
			err = errors.New("that is no URL; want nats://HOST:PORT")
		}
		return nil, hinted{
			fmt.Errorf("%s: %w", redactURL(natsURL), err),
			"--nats-url wants a NATS server with JetStream whose stream a gateway made ('odin serve --nats-url …' or '--nats-listen …').",
		}
	}
	return &brokerTarget{to: p, name: redactURL(natsURL), done: func() { _ = p.Close() }}, nil
}
