package swarm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Report is what a swarm has seen in all.
type Report struct {
	Counts
	Ledger *LedgerReport // nil without Config.Check
	delays Delays
}

// Delays are from a message's stamp (see Stamp) to its being read, on normal
// clients, until they stall.
func (r *Report) Delays() *Delays { return &r.delays }

// Swarm is a running one.
type Swarm struct {
	cfg     Config
	members []member
	done    chan struct{}
}

// member is one process's part. Its methods may be called from any goroutine.
type member interface {
	counts() Counts
	published(es []Entry)
	stall()
	rally(n int)
	finish(e endOrder) (Report, error)
	over() <-chan struct{} // closed when nothing is left to happen, or it died
}

// endOrder is how a swarm ends.
type endOrder struct {
	Last      map[string]uint64 `json:"last"` // by channel: the last acknowledged seq
	Uncertain bool              `json:"uncertain"`
	Until     time.Time         `json:"until"`
}

// Start begins the attempts. The swarm must be ended by Finish.
func Start(cfg Config) (*Swarm, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	to, err := cfg.target()
	if err != nil {
		return nil, err
	}
	s := &Swarm{cfg: cfg, done: make(chan struct{})}
	for i := range cfg.Processes {
		p := part{i, cfg.Processes}
		var m member
		if cfg.Processes == 1 {
			m, err = startLocal(cfg.of(p, false), p)
		} else {
			m, err = startChild(cfg.of(p, to.addr.Addr().IsLoopback() && to.addr.Addr().Is4()), p)
		}
		if err != nil {
			_, _ = s.Finish(End{})
			return nil, err
		}
		s.members = append(s.members, m)
	}
	go func() {
		for _, m := range s.members {
			<-m.over()
		}
		close(s.done)
	}()
	return s, nil
}

// Processes is over how many the swarm is spread.
func (s *Swarm) Processes() int { return len(s.members) }

// Counts is what was seen so far, some 50 ms ago (200 ms by other processes).
func (s *Swarm) Counts() Counts {
	var sum Counts
	for _, m := range s.members {
		c := m.counts()
		sum.add(&c)
	}
	return sum
}

// Published tells the ledger what was acknowledged. Nothing it is told may be
// missing from a connection, but what is in no Entry may be there too.
func (s *Swarm) Published(es []Entry) {
	if !s.cfg.Check || len(es) == 0 {
		return
	}
	for _, m := range s.members {
		m.published(es)
	}
}

// Stall makes the normal clients stop reading now, as if Config.StallAfter had
// just passed. Those still in their handshakes finish them.
func (s *Swarm) Stall() {
	for _, m := range s.members {
		m.stall()
	}
}

// Volley sends Config.Volley n times, each on another connection as far as there
// are so many, and once more on the same for every answer, until it is called
// with 0. Counts.Answers counts.
// What is in the air when it is called again is answered to nobody.
func (s *Swarm) Volley(n int) {
	for i, m := range s.members {
		m.rally(part{i, len(s.members)}.size(n))
	}
}

// Done is closed when nothing is left to happen: every attempt failed or ended.
func (s *Swarm) Done() <-chan struct{} { return s.done }

// End says how Finish ends a swarm.
type End struct {
	// Last is the last acknowledged seq of each channel: the ledger wants every
	// connection that reads to come to it.
	Last map[string]uint64
	// Uncertain says that some publications have no ack and may be stored all
	// the same.
	Uncertain bool
	// Settle is how long to wait for that at most.
	Settle time.Duration
}

// Finish waits until all has arrived, hangs up and reports. What was not
// attempted, or did not finish its handshake, is an error of that name.
func (s *Swarm) Finish(e End) (Report, error) {
	order := endOrder{e.Last, e.Uncertain, time.Now().Add(e.Settle)}
	reports, errs := make([]Report, len(s.members)), make([]error, len(s.members))
	var wg sync.WaitGroup
	for i, m := range s.members {
		wg.Go(func() { reports[i], errs[i] = m.finish(order) })
	}
	wg.Wait()
	var sum Report
	for i := range reports {
		r := &reports[i]
		sum.Counts.add(&r.Counts)
		sum.delays.add(&r.delays)
		if r.Ledger != nil {
			if sum.Ledger == nil {
				sum.Ledger = &LedgerReport{Faults: Breakdown{}}
			}
			sum.Ledger.add(r.Ledger)
		}
	}
	return sum, errors.Join(errs...)
}

// local is a member in this process.
type local struct{ w *worker }

func startLocal(cfg Config, p part) (member, error) {
	w, err := newWorker(cfg, p)
	if err != nil {
		return nil, err
	}
	go w.run()
	return local{w}, nil
}

func (l local) counts() Counts        { return *l.w.snapshot.Load() }
func (l local) over() <-chan struct{} { return l.w.over }
func (l local) published(es []Entry)  { l.w.post(func() { l.w.ledger.published(es) }) }
func (l local) stall() {
	// Rounded up, so that a stall at once is not "never".
	l.w.post(func() { l.w.cfg.StallAfter = time.Since(l.w.began) + 1 })
}
func (l local) rally(n int) { l.w.post(func() { l.w.rally(n) }) }
func (l local) finish(e endOrder) (Report, error) {
	l.w.post(func() {
		w := l.w
		w.ending = &ending{until: e.Until}
		if w.ledger != nil {
			w.ledger.uncertain = e.Uncertain
			w.ending.tails = w.ledger.tails(e.Last)
		}
	})
	return <-l.w.report, nil
}

// toChild and fromChild are the lines between the processes.
type toChild struct {
	Config    *Config   `json:"config,omitempty"`
	Part      part      `json:"part,omitzero"`
	Published []Entry   `json:"published,omitempty"`
	Stall     bool      `json:"stall,omitempty"`
	Volley    *int      `json:"volley,omitempty"`
	Finish    *endOrder `json:"finish,omitempty"`
}

type fromChild struct {
	Counts  *Counts           `json:"counts,omitempty"`
	Roles   [roles]RoleCounts `json:"roles"`
	Last    bool              `json:"last,omitempty"`
	Ledger  *LedgerReport     `json:"ledger,omitempty"`
	Buckets []uint64          `json:"buckets,omitempty"`
	N       uint64            `json:"n,omitempty"`
	Most    int64             `json:"most,omitempty"`
	Error   string            `json:"error,omitempty"`
}

// child is a member in another process.
type child struct {
	cmd  *exec.Cmd
	size int
	gone chan struct{} // closed when its last line was read

	sendMu sync.Mutex
	in     io.WriteCloser // guarded by sendMu
	enc    *json.Encoder  // guarded by sendMu

	mu     sync.Mutex
	latest Counts // guarded by mu
	report *Report
	err    error

	overOnce sync.Once
	overCh   chan struct{}
}

func startChild(cfg Config, p part) (member, error) {
	if len(cfg.Child) == 0 {
		return nil, errors.New("more than one process needs Config.Child")
	}
	c := &child{
		cmd: exec.Command(cfg.Child[0], cfg.Child[1:]...), size: p.size(cfg.Connections),
		gone: make(chan struct{}), overCh: make(chan struct{}),
	}
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a process of the swarm: %w", err)
	}
	c.enc = json.NewEncoder(c.in)
	go c.listen(out)
	c.send(toChild{Config: &cfg, Part: p})
	return c, nil
}

// send writes one line; a child that died is found out by listen.
func (c *child) send(m toChild) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	_ = c.enc.Encode(m)
}

func (c *child) listen(out io.Reader) {
	defer close(c.gone)
	defer c.overOnce.Do(func() { close(c.overCh) })
	dec := json.NewDecoder(bufio.NewReader(out))
	for {
		var m fromChild
		if err := dec.Decode(&m); err != nil {
			return
		}
		c.mu.Lock()
		if m.Counts != nil {
			c.latest = *m.Counts
			c.latest.Roles = m.Roles
		}
		if m.Last {
			c.report = &Report{Counts: c.latest, Ledger: m.Ledger, delays: Delays{buckets: m.Buckets, n: m.N, most: m.Most}}
		}
		if m.Error != "" {
			c.err = errors.New(m.Error)
		}
		done := c.latest.over(c.size)
		c.mu.Unlock()
		if done {
			c.overOnce.Do(func() { close(c.overCh) })
		}
	}
}

func (c *child) over() <-chan struct{} { return c.overCh }

func (c *child) counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest.clone()
}

func (c *child) published(es []Entry) { c.send(toChild{Published: es}) }

func (c *child) stall() { c.send(toChild{Stall: true}) }

func (c *child) rally(n int) { c.send(toChild{Volley: &n}) }

func (c *child) finish(e endOrder) (Report, error) {
	c.send(toChild{Finish: &e})
	<-c.gone
	_ = c.in.Close()
	err := c.cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.report != nil:
		return *c.report, nil
	case c.err == nil && err != nil:
		c.err = fmt.Errorf("a process of the swarm ended before its time: %w", err)
	case c.err == nil:
		c.err = errors.New("a process of the swarm ended before its time, without a report")
	}
	return Report{Counts: c.latest}, c.err
}

// Child is the program of Config.Child: it runs one part, told and telling by
// JSON lines, until it is asked to finish or in ends.
func Child(in io.Reader, out io.Writer) error {
	// Signals to a process group reach all of them; the first process decides.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1)
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	tell := func(m fromChild) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(m)
	}
	dec := json.NewDecoder(bufio.NewReader(in))
	var first toChild
	if err := dec.Decode(&first); err != nil || first.Config == nil {
		return fmt.Errorf("this is a part of odin stress, not for use by itself: %w", err)
	}
	m, err := startLocal(*first.Config, first.Part)
	if err != nil {
		tell(fromChild{Error: err.Error()})
		return nil
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				c := m.counts()
				tell(fromChild{Counts: &c, Roles: c.Roles})
			}
		}
	})
	end := endOrder{Until: time.Now()}
	for {
		var next toChild
		if dec.Decode(&next) != nil {
			break
		}
		if next.Finish != nil {
			end = *next.Finish
			break
		}
		if next.Stall {
			m.stall()
		}
		if next.Volley != nil {
			m.rally(*next.Volley)
		}
		if next.Published != nil && first.Config.Check {
			m.published(next.Published)
		}
	}
	rep, err := m.finish(end)
	close(stop)
	wg.Wait()
	last := fromChild{
		Counts: &rep.Counts, Roles: rep.Roles, Last: true, Ledger: rep.Ledger,
		Buckets: rep.delays.buckets, N: rep.delays.n, Most: rep.delays.most,
	}
	tell(last)
	return err
}
