package brokertest

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/odin-ws/odin/gateway/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakePassesTheSuite(t *testing.T) {
	Run(t, func(*testing.T) Harness {
		f := NewFake()
		return Harness{
			Broker:    f,
			Throttles: true,
			Stop:      func() { f.SetDown(errors.New("stopped")) },
			Restart:   f.SetUp,
			Recreate:  f.NewEpoch,
			Evict:     f.Evict,
			Inject:    func(ch string, data []byte) { f.Inject(ch, data) },
		}
	})
}

func startedFake(t *testing.T) (*Fake, *Recorder) {
	f, sink := NewFake(), NewRecorder(t)
	if err := f.Start(sink); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, sink
}

func TestFakeDropsAndLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, sink := startedFake(t)
		synctest.Wait()
		f.DropNext(2)
		f.Inject("a", nil)
		f.Inject("a", nil)
		f.LoseNext(3)
		for range 5 {
			f.Inject("a", nil)
		}
		synctest.Wait()
		if got := fmt.Sprint(sink.Losses()); got != "[{2 6}]" {
			t.Errorf("losses %v", got)
		}
		if c := f.Counters(); c != (broker.Counters{Delivered: 4, Refetched: 2, Lost: 3}) {
			t.Errorf("counters %+v", c)
		}
		if _, err := f.Get(t.Context(), "a", 3); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	})
}

func TestFakeFails(t *testing.T) {
	f, _ := startedFake(t)
	f.FailNext(1, broker.ErrFull)
	p := broker.Publication{Channel: "a"}
	if _, err := f.Publish(t.Context(), p); !errors.Is(err, broker.ErrFull) {
		t.Errorf("%v", err)
	}
	if _, err := f.Publish(t.Context(), p); err != nil {
		t.Errorf("%v", err)
	}
}

func TestFakeForgetsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := startedFake(t)
		p := broker.Publication{Channel: "a", Key: "k"}
		for i, want := range []bool{false, true, false} {
			ack, err := f.Publish(t.Context(), p)
			if err != nil || ack.Duplicate != want {
				t.Errorf("publish %d: %+v, %v", i, ack, err)
			}
			if i == 1 {
				time.Sleep(fakeDedup)
			}
		}
		_ = f.Close()
	})
}
