package jetstream

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashChild(dir)
	}
	if dir := os.Getenv(serverDir); dir != "" {
		serverChild(dir)
	}
	goleak.VerifyTestMain(m)
}

func TestEmbeddedPassesTheSuite(t *testing.T) {
	brokertest.Run(t, func(t *testing.T) brokertest.Harness {
		cfg := testConfig()
		cfg.DataDir = t.TempDir()
		b := newBroker(t, cfg)
		h := harness(t, b, cfg, func() *nats.Conn { return dialEmbedded(t, b) })
		h.Throttles = true
		return h
	})
}

func TestOutsidePassesTheSuite(t *testing.T) {
	brokertest.Run(t, func(t *testing.T) brokertest.Harness {
		out := startOutside(t)
		cfg := testConfig()
		cfg.URL, cfg.Ping = out.url, 5*time.Second // the race detector starves it
		b := newBroker(t, cfg)
		h := harness(t, b, cfg, func() *nats.Conn { return dial(t, out.url) })
		h.Stop, h.Restart = out.stop, out.start
		return h
	})
}

func testConfig() Config {
	return Config{Queue: 512, Audit: 100 * time.Millisecond, MaxPayload: 1 << 20, Log: quiet()}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newBroker(t testing.TB, cfg Config) *Broker {
	t.Helper()
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// harness gives the suite its hands on the stream through a connection of its own.
func harness(t *testing.T, b *Broker, cfg Config, dial func() *nats.Conn) brokertest.Harness {
	js := sync.OnceValue(func() nats.JetStreamContext { return jetStream(t, dial()) })
	return brokertest.Harness{
		Broker:   b,
		Queue:    cfg.Queue,
		Recreate: func() { recreate(t, js()) },
		Evict: func(before uint64) {
			if err := js().PurgeStream(streamName, &nats.StreamPurgeRequest{Sequence: before}); err != nil {
				t.Fatal(err)
			}
		},
		Inject: func(ch string, data []byte) {
			inject(t, js(), &nats.Msg{Subject: inPrefix + ch, Data: data})
		},
	}
}

func jetStream(t testing.TB, nc *nats.Conn) nats.JetStreamContext {
	t.Helper()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// inject publishes as a stranger does; a server that has just come back may
// need a moment.
func inject(t testing.TB, js nats.JetStreamContext, m *nats.Msg) uint64 {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ack, err := js.PublishMsg(m)
		if err == nil {
			return ack.Sequence
		}
		if time.Now().After(end) {
			t.Fatalf("inject: %v", err)
		}
	}
}

// recreate deletes the stream and makes it again, unless the broker is faster.
func recreate(t testing.TB, js nats.JetStreamContext) {
	t.Helper()
	var si *nats.StreamInfo
	brokertest.Wait(t, "the stream answers", func() (ok bool) {
		var err error
		si, err = js.StreamInfo(streamName)
		return err == nil
	})
	if err := js.DeleteStream(streamName); err != nil {
		t.Fatal(err)
	}
	// The nodes notice and make it anew themselves; a server asked by two at once
	// fails one of them (nats-server 2.15.2 opens the store unlocked).
	_, err := js.AddStream(&si.Config)
	brokertest.Wait(t, "the stream made anew", func() bool {
		again, infoErr := js.StreamInfo(streamName)
		return infoErr == nil && !again.Created.Equal(si.Created)
	})
	if err != nil && !errors.Is(err, nats.ErrStreamNameAlreadyInUse) {
		t.Logf("made anew by a node: %v", err)
	}
}

func dial(t testing.TB, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	opts = append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func dialEmbedded(t testing.TB, b *Broker) *nats.Conn {
	return dial(t, "", nats.InProcessServer(b.emb), nats.UserInfoHandler(b.emb.userInfo))
}

// outside is a nats-server as an operator runs it, on TCP.
type outside struct {
	t    testing.TB
	opts server.Options
	url  string
	srv  *server.Server
}

func startOutside(t testing.TB, change ...func(*server.Options)) *outside {
	t.Helper()
	o := &outside{t: t, opts: server.Options{
		ServerName: "outside", Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true,
		StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	}}
	for _, c := range change {
		c(&o.opts)
	}
	o.start()
	t.Cleanup(func() { o.stop() })
	return o
}

// start starts it, on the same port and store as before.
func (o *outside) start() {
	o.t.Helper()
	opts := o.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		o.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		o.t.Fatal("the outside nats-server doesn't start")
	}
	o.srv, o.url = srv, srv.ClientURL()
	o.opts.Port = srv.Addr().(*net.TCPAddr).Port
}

func (o *outside) stop() {
	o.srv.Shutdown()
	o.srv.WaitForShutdown()
}
