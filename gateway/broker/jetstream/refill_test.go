package jetstream

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// A stretch of the stream is read once, whatever its messages weigh: what is asked for
// ahead follows what was read.
func TestFetchReadsOnce(t *testing.T) {
	for _, size := range []int{100, 3000, 16 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			const n = 3000
			br := startedBroker(t, Config{DataDir: t.TempDir(), Log: quiet()}, brokertest.NewRecorder(t))
			ps := make([]broker.Publication, n)
			data := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, size-2)...), '"')
			for i := range ps {
				ps[i] = broker.Publication{Channel: fmt.Sprint("c", i%7), Data: data}
			}
			for part := range slices.Chunk(ps, n/10) {
				for _, r := range br.PublishBatch(context.Background(), part) {
					if r.Err != nil {
						t.Fatal(r.Err)
					}
				}
				// Not more at once than the server may have for the delivery: on a busy
				// machine that would be cut.
				brokertest.Wait(t, "delivery", func() bool { return br.position.Load() == br.head.Load() })
			}
			f := fetcher{c: &br.client, each: fetchBatch, size: fetchBytes / fetchDepth, depth: fetchDepth}
			began := br.gets.last
			for next := uint64(1); next <= n; {
				read, err := f.fetch(t.Context(), next, n+1)
				if err != nil {
					t.Fatal(err)
				}
				for i := range read {
					if read[i].msg.Seq != next {
						t.Fatalf("seq %d after %d", read[i].msg.Seq, next-1)
					}
					next++
				}
			}
			asked := int(br.gets.last - began)
			least := n/fetchBatch + n*size/f.size
			t.Logf("%d requests", asked)
			// The first few know nothing of what is to come.
			if most := least + least/8 + 2*fetchDepth; asked > most {
				t.Errorf("%d requests for %d messages of %d bytes, at most %d", asked, n, size, most)
			}
		})
	}
}
