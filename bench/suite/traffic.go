package suite

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/internal/swarm"
)

// Many channels: how many each connection has, and events a second.
const (
	hand      = 10
	feedRate  = 2000
	feedEvery = 10 * time.Millisecond // batches
)

// playChannels plays a market to connections that follow a few channels each.
func playChannels(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	names := b.feed.channels
	if err := s.makeChannels(ctx, names); err != nil {
		return nil, err
	}
	n, each := b.Connections, min(hand, len(names))
	cfg := crowd(s, n)
	cfg.Channels, cfg.Deal = names, each
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	defer h.close()
	// Cards go round: the first channels may have one follower more.
	followers := map[string]int{}
	for i, ch := range names {
		followers[ch] = n * each / len(names)
		if i < n*each%len(names) {
			followers[ch]++
		}
	}
	m, err := begin(s, h)
	if err != nil {
		return nil, err
	}
	total := during(feedRate, b.For).count
	expected, at := uint64(0), 0
	for start := time.Now(); at < total; time.Sleep(feedEvery) {
		due := min(total, int(time.Since(start).Seconds()*feedRate))
		if due == at {
			continue
		}
		body := []byte{'['}
		for ; at < due; at++ {
			e := &b.feed.events[at%len(b.feed.events)]
			body = fmt.Appendf(body, `{"ch":%q,"data":%s},`, e.Channel, e.Data)
			expected += uint64(followers[e.Channel])
		}
		body[len(body)-1] = ']'
		if _, err := post(ctx, s.admin+"/v1/publish/batch", string(body)); err != nil {
			return nil, err
		}
	}
	v, err := m.end(expected)
	if err != nil {
		return nil, err
	}
	return []Sample{{Case: caseOf(n, fmt.Sprintf("%d of %d channels each, %d msg/s", each, len(names), feedRate)), Values: v}}, nil
}

// feedMarked publishes stamped payloads to one channel, one request after the
// other on a connection of its own, rate a second.
func (s *server) feedMarked(ctx context.Context, ch, mark string, size int, p phase) error {
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.admin, "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	start := time.Now()
	for i := range p.count {
		time.Sleep(time.Until(start.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		data := swarm.AppendPayload(nil, mark, uint64(i), size)
		head := fmt.Appendf(nil, `{"ch":%q,"data":`, ch)
		request := fmt.Appendf(nil, "POST /v1/publish HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", conn.RemoteAddr(), len(head)+len(data)+1, head)
		at := len(request)
		request = append(append(request, data...), '}')
		// The stamp goes on last: what is timed is the request, not its making.
		swarm.Stamp(request[at:at+len(data)], mark, time.Now())
		if _, err := conn.Write(request); err != nil {
			return err
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("publish: %s %s %w", resp.Status, body, err)
		}
	}
	return nil
}

func delays(v map[string]float64, d *swarm.Delays) {
	v["p50_us"] = float64(d.Quantile(.5)) / 1e3
	v["p99_us"] = float64(d.Quantile(.99)) / 1e3
	v["max_us"] = float64(d.Max()) / 1e3
}

const latencyRate = 100

// playLatency times single messages on an idle machine: from just before the
// request is written to the return of the subscriber's epoll_wait.
func playLatency(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	cfg := crowd(s, 1)
	cfg.Pause, cfg.Mark = 0, swarm.NewMark()
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	p := during(latencyRate, b.For)
	err = s.feedMarked(ctx, s.channel, cfg.Mark, b.Size, p)
	time.Sleep(200 * time.Millisecond)
	rep, bad := h.Finish(swarm.End{})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	if rep.Delays().N() != uint64(p.count) {
		return nil, fmt.Errorf("%d of %d messages arrived", rep.Delays().N(), p.count)
	}
	v := map[string]float64{}
	delays(v, rep.Delays())
	return []Sample{{Case: fmt.Sprintf("one subscriber, %d msg/s", latencyRate), Values: v}}, nil
}

// A slow mix: which part hardly reads, and how much is sent: megabytes, more than
// the kernel takes for a connection whose server leaves its buffers to grow.
const (
	slowPart = 20
	slowRate = 50
	slowSize = 8000
)

// playSlow is a crowd in which some read a byte a second.
func playSlow(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	n := max(slowPart, b.Connections/20)
	cfg := crowd(s, n)
	cfg.Slow, cfg.SlowRead, cfg.Mark = n/slowPart, 1, swarm.NewMark()
	kernel, err := socketMemory()
	if err != nil {
		return nil, err
	}
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	m, err := begin(s, h)
	if err != nil {
		h.close()
		return nil, err
	}
	// Long enough for 256 messages to lie behind.
	p := during(slowRate, max(b.For, 8*time.Second))
	if err := s.feedMarked(ctx, s.channel, cfg.Mark, slowSize, p); err != nil {
		h.close()
		return nil, err
	}
	kernelNow, err := socketMemory()
	if err != nil {
		h.close()
		return nil, err
	}
	v, err := m.end(uint64(p.count) * uint64(n-cfg.Slow))
	rep, bad := h.Finish(swarm.End{})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	delays(v, rep.Delays())
	v["kernel_bytes_per_slow"] = float64(kernelNow-kernel) / float64(cfg.Slow)
	v["slow_cut"] = float64(rep.Roles[swarm.Slow].Ended.Sum()) / float64(cfg.Slow)
	return []Sample{{Case: caseOf(n, fmt.Sprintf("%d of them slow, %d msg/s of %d B", cfg.Slow, slowRate, slowSize)), Values: v}}, nil
}

// playChurn has visitors come and go while others stay and are sent messages.
func playChurn(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	stay, wave := max(1, b.Connections/10), max(1, b.Connections/5)
	h, err := b.gather(crowd(s, stay))
	if err != nil {
		return nil, err
	}
	defer h.close()
	visit := func() error {
		cfg := crowd(s, wave)
		cfg.Pause = 0
		v, err := b.gather(cfg)
		if err == nil {
			v.close()
		}
		return err
	}
	if err := visit(); err != nil { // what is kept for the next visitors is not a leak
		return nil, err
	}
	time.Sleep(b.Settle)
	rss, _, err := s.proc.memory()
	if err != nil {
		return nil, err
	}
	before, err := s.proc.cpu()
	if err != nil {
		return nil, err
	}
	fed := make(chan error, 1)
	feeding, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, err := s.broadcast(feeding, phase{rate: 10, count: 100_000})
		fed <- err
	}()
	visits, start := 0, time.Now()
	for ; time.Since(start) < b.For; visits += wave {
		if err := visit(); err != nil {
			return nil, err
		}
	}
	took := time.Since(start)
	stop()
	if err := <-fed; err != nil && !errors.Is(err, context.Canceled) {
		return nil, err
	}
	after, err := s.proc.cpu()
	if err != nil {
		return nil, err
	}
	time.Sleep(b.Settle)
	grown, _, err := s.proc.memory()
	if err != nil {
		return nil, err
	}
	now := h.Counts()
	return []Sample{{Case: caseOf(stay, fmt.Sprintf("visitors %d at a time", wave)), Values: map[string]float64{
		"connections_per_second": float64(visits) / took.Seconds(),
		"cpu_us_per_connection":  micros(after.since(before).total, visits),
		"rss_bytes_grown":        float64(grown - rss),
		"cut":                    float64(stay - now.Roles[swarm.Normal].Open),
	}}}, nil
}

// How many publishes wait for their acknowledgement at most.
const ingestWindow = 4096

// playIngest publishes with JetStream as a client of the embedded NATS server does
// and counts acknowledgements; a message counts once it is stored, and the trial
// ends when every subscriber has it.
func playIngest(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{nats: true})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	const channels = 500
	names := channelNames(channels)
	if err := s.makeChannels(ctx, names); err != nil {
		return nil, err
	}
	cfg := crowd(s, channels)
	cfg.Channels, cfg.Deal = names, 1
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	defer h.close()

	nc, err := nats.Connect(s.nats, nats.Name("odin bench"))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	var acked, refused atomic.Int64
	window := make(chan struct{}, ingestWindow)
	inbox := nats.NewInbox()
	sub, err := nc.Subscribe(inbox, func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte(`"error"`)) || len(m.Data) == 0 {
			refused.Add(1)
		} else {
			acked.Add(1)
		}
		<-window
	})
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the window bounds it
		return nil, err
	}
	payload, err := json.Marshal(map[string]string{"x": strings.Repeat("x", max(0, b.Size-70))})
	if err != nil {
		return nil, err
	}
	m, err := begin(s, h)
	if err != nil {
		return nil, err
	}
	sent, subjects := 0, make([]string, channels)
	for i, ch := range names {
		subjects[i] = "odin.in." + ch
	}
	for start := time.Now(); time.Since(start) < b.For && ctx.Err() == nil; {
		for range 64 {
			select {
			case window <- struct{}{}:
			default:
				// What is buffered must be on its way before it can be waited for.
				if err := nc.Flush(); err != nil {
					return nil, err
				}
				window <- struct{}{}
			}
			if err := nc.PublishRequest(subjects[sent%channels], inbox, payload); err != nil {
				return nil, err
			}
			sent++
		}
	}
	if err := nc.Flush(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); len(window) > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(m.start)
	if r := refused.Load(); r > 0 || acked.Load() != int64(sent) {
		return nil, fmt.Errorf("of %d messages %d were acknowledged and %d refused", sent, acked.Load(), r)
	}
	v, err := m.end(uint64(sent))
	if err != nil {
		return nil, err
	}
	if v["delivered"] != 1 {
		time.Sleep(5 * time.Second) // late is one thing, lost another
		now := h.Counts()
		return nil, fmt.Errorf("all %d messages were acknowledged and %.0f delivered before a second without any; %d after 5 s more, %.0f of %d subscribers cut",
			sent, v["frames"], now.Frames-m.from.Frames, v["cut"], channels)
	}
	// Whichever came last, the acknowledgement or the frame.
	v["messages_per_second"] = min(float64(sent)/took.Seconds(), v["frames_per_second"])
	v["cpu_us_per_message"] = v["cpu_us_per_frame"] * v["frames"] / float64(sent)
	return []Sample{{Case: fmt.Sprintf("%d channels, a subscriber each, %d unacknowledged at most", channels, ingestWindow), Values: v}}, nil
}

// playCapacity asks the gateway's own formula.
func playCapacity(ctx context.Context, b *bench, _ contender) ([]Sample, error) {
	out, err := exec.CommandContext(ctx, b.Odin, "capacity", "--memory", "512MiB", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("odin capacity: %w", err)
	}
	var answer struct{ Max float64 }
	if err := json.Unmarshal(out, &answer); err != nil || answer.Max == 0 {
		return nil, fmt.Errorf("odin capacity says %.200s (%w)", out, err)
	}
	return []Sample{{Case: "512 MiB", Values: map[string]float64{"connections": answer.Max}}}, nil
}
