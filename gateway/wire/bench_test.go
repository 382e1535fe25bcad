package wire

import (
	"strings"
	"testing"
)

func BenchmarkParser(b *testing.B) {
	for name, payload := range map[string]string{"20B": `{"op":"ping","id":5}`, "4KiB": strings.Repeat("abcdefgh", 512)} {
		b.Run(name, func(b *testing.B) {
			in := []byte(frame(0x81, payload))
			buf := make([]byte, len(in))
			lim := &Limits{MaxMessage: 1 << 16, MaxFragments: 1024}
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				var p Parser
				copy(buf, in)
				if ev, _, _ := p.Next(buf, lim, nil); ev.Kind != Message {
					b.Fatal("no message")
				}
			}
		})
	}
}

func BenchmarkAppendMsg(b *testing.B) {
	data := []byte(`{"price":"50000.10","size":"0.25","side":"buy","id":"8a7d0c5e"}`)
	dst := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendMsg(dst[:0], "trade.BTC-USD", 1044, 1041, 1767000000123, data)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkParseCommand(b *testing.B) {
	for name, in := range map[string]string{
		"ping": `{"op":"ping","id":5}`,
		"sub":  `{"op":"sub","id":1,"ch":["trade.BTC-USD"],"since":{"trade.BTC-USD":{"epoch":"e7","seq":1041}},"mode":"all","snap":true}`,
	} {
		b.Run(name, func(b *testing.B) {
			payload := []byte(in)
			var c Command
			b.ReportAllocs()
			for b.Loop() {
				if err := ParseCommand(payload, &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// chrome is what a browser sends.
var chrome = head("User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
	"Pragma: no-cache", "Cache-Control: no-cache", "Origin: http://odin.test:8080", "Accept-Encoding: gzip, deflate, br",
	"Accept-Language: en-US,en;q=0.9", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec-WebSocket-Protocol: odin.v1.json")

func BenchmarkHead(b *testing.B) {
	in := []byte(chrome)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		var s HeadScanner
		if end, _ := s.Scan(in); end != len(in) {
			b.Fatal("no end")
		}
		r, ref := ParseHead(in)
		if ref == nil {
			ref = CheckUpgrade(&r)
		}
		if ref != nil {
			b.Fatal(ref)
		}
	}
}

func BenchmarkAppendUpgrade(b *testing.B) {
	r, _ := ParseHead([]byte(chrome))
	dst := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.AppendUpgrade(dst); err != nil {
			b.Fatal(err)
		}
	}
}
