package bufpool

import (
	"fmt"
	"testing"
)

func BenchmarkGetPut(b *testing.B) {
	for _, n := range []int{256, 4096, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := New(16 << 20)
			b.ReportAllocs()
			for b.Loop() {
				buf, err := p.Get(n)
				if err != nil {
					b.Fatal(err)
				}
				p.Put(buf)
			}
		})
	}
}

func BenchmarkGetPutParallel(b *testing.B) {
	p := New(16 << 20)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			buf, err := p.Get(4096)
			if err != nil {
				b.Error(err)
				return
			}
			p.Put(buf)
		}
	})
}

func BenchmarkRefused(b *testing.B) {
	p := New(4096)
	if _, err := p.Get(4096); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Get(4096); err == nil {
			b.Fatal("not refused")
		}
	}
}
