package jetstream

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

func TestPublisher(t *testing.T) {
	out := startOutside(t)
	named := strings.Replace(out.url, "//", "//ann:s3cret@", 1)
	if _, err := NewPublisher(named); err == nil || !strings.Contains(err.Error(), "no stream ODIN") || strings.Contains(err.Error(), "ann") {
		t.Errorf("without a stream: %v", err)
	}
	r := start(t, func(c *Config) { c.URL, c.DataDir = out.url, "" })
	p, err := NewPublisher(out.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	pub := broker.Publication{Channel: "a", Data: []byte(`1`), Key: "k"}
	ack, err := p.Publish(t.Context(), pub)
	if want := (broker.Ack{Epoch: r.State().Epoch, Seq: 1}); err != nil || ack != want {
		t.Errorf("%+v, %v", ack, err)
	}
	for i, res := range p.PublishBatch(t.Context(), []broker.Publication{pub, {Channel: "b", Data: []byte(`2`)}}) {
		if res.Err != nil || res.Ack.Duplicate != (i == 0) || res.Ack.Seq != uint64(i)+1 {
			t.Errorf("%d: %+v", i, res)
		}
	}
	recreate(t, r.js)
	pub.Key = ""
	ack, err = p.Publish(t.Context(), pub)
	if err != nil || ack.Seq != 1 {
		t.Errorf("%+v, %v", ack, err)
	}
	brokertest.Wait(t, "the new epoch", func() bool { return r.State().Epoch == ack.Epoch })
	out.stop()
	brokertest.Wait(t, "down", func() bool {
		_, err := p.Publish(t.Context(), pub)
		return errors.Is(err, broker.ErrDown)
	})
	out.start()
	brokertest.Wait(t, "up again", func() bool {
		again, err := p.Publish(t.Context(), pub)
		return err == nil && again.Epoch == ack.Epoch && again.Seq > ack.Seq
	})
}

func TestPublisherWithoutServer(t *testing.T) {
	if _, err := NewPublisher("nats://127.0.0.1:1"); err == nil {
		t.Error("connected to nothing")
	}
	if _, err := NewPublisher(""); err == nil {
		t.Error("accepted no URL")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		ack  string
		want error
	}{
		{`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"ODIN","seq":0}`, broker.ErrFull},
		{`{"error":{"code":500,"err_code":10047,"description":"insufficient storage resources available"},"stream":"ODIN","seq":0}`, broker.ErrFull},
		{`{"error":{"code":429,"err_code":10167,"description":"too many requests"},"stream":"ODIN","seq":0}`, broker.ErrFull},
		{`{"error":{"code":400,"err_code":10002,"description":"resource limits exceeded for account"},"stream":"ODIN","seq":0}`, broker.ErrFull},
		{`{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"stream":"ODIN","seq":0}`, broker.ErrTooLarge},
		{`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"},"stream":"ODIN","seq":0}`, broker.ErrDown},
	} {
		if _, err := parseAck(&nats.Msg{Data: []byte(c.ack)}, false); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.ack, err)
		}
	}
	full := &nats.Msg{Data: []byte(`{"error":{"code":400,"err_code":10002,"description":"resource limits exceeded for account"}}`)}
	if _, err := parseAck(full, true); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("the limit of a node short of memory: %v", err)
	}
	for ack, want := range map[string]broker.Ack{
		`{"stream":"ODIN","seq":7}`:                                  {Seq: 7},
		`{"stream":"ODIN", "seq":18446744073709551615}`:              {Seq: 1<<64 - 1},
		`{"stream":"ODIN","domain":"hub","seq":12}`:                  {Seq: 12},
		`{"stream":"ODIN","seq":9,"duplicate": true}`:                {Seq: 9, Duplicate: true},
		`{"stream":"ODIN","domain":"\"seq\":3","seq":4,"future":[]}`: {Seq: 4},
	} {
		if got, err := parseAck(&nats.Msg{Data: []byte(ack)}, true); err != nil || got != want {
			t.Errorf("%s: %+v, %v", ack, got, err)
		}
	}
}
