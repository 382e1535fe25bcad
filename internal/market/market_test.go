package market

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func readAll(t *testing.T, in io.Reader) ([]Event, error) {
	t.Helper()
	r, err := NewReader("rec", in)
	if err != nil {
		return nil, err
	}
	var all []Event
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			if _, again := r.Next(); !errors.Is(again, err) {
				t.Errorf("after %v came %v", err, again)
			}
			return all, err
		}
		all = append(all, e)
	}
}

func zipped(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReaderKeepsBytes(t *testing.T) {
	// Spaces, number text, escapes and key order are the publisher's.
	data := []string{`{ "p": 1.10e2,  "s":"\u00e9\/<" }`, `[1 , 2]`, `"x"`, `null`, `-0.0`, `{"a":{"b":[ ]}}`}
	var b strings.Builder
	for i, d := range data {
		fmt.Fprintf(&b, "{\"ts\":%d,\"channel\":\"trade.A.B-%d\",\"data\":%s}\r\n\n", i+1, i, d)
	}
	text := strings.TrimRight(b.String(), "\r\n") // the last line needs no end
	for name, in := range map[string][]byte{"plain": []byte(text), "gzip": zipped(t, text)} {
		got, err := readAll(t, bytes.NewReader(in))
		if err != nil || len(got) != len(data) {
			t.Fatalf("%s: %d events, %v", name, len(got), err)
		}
		for i, e := range got {
			want := Event{TS: int64(i + 1), Channel: fmt.Sprintf("trade.A.B-%d", i), Data: []byte(data[i])}
			if !reflect.DeepEqual(e, want) {
				t.Errorf("%s: event %d = %+v (%s), want data %s", name, i, e, e.Data, data[i])
			}
		}
	}
}

func TestReaderErrors(t *testing.T) {
	good := `{"ts":1,"channel":"a.b","data":{}}` + "\n"
	for _, c := range []struct{ name, in, want string }{
		{"not JSON", good + "{nope}\n", "rec:2: not JSON"},
		{"not an object", "[1]\n", "rec:1: a JSON array, want an object"},
		{"no ts", `{"channel":"a","data":1}`, `rec:1: no "ts"`},
		{"ts a string", good + good + `{"ts":"1","channel":"a","data":1}`, `rec:3: "ts" is a JSON string`},
		{"ts negative", `{"ts":-1,"channel":"a","data":1}`, `rec:1: "ts" -1`},
		{"no channel", `{"ts":1,"data":1}`, `rec:1: no "channel"`},
		{"bad channel", `{"ts":1,"channel":"a..b","data":1}`, `rec:1: channel "a..b"`},
		{"no data", `{"ts":1,"channel":"a"}`, `rec:1: no "data"`},
		{"two events in a line", good[:len(good)-1] + good, "rec:1: not JSON"},
		{"bad UTF-8", "{\"ts\":1,\"channel\":\"a\",\"data\":\"\xff\"}", "rec:1: not valid UTF-8"},
		{"line too long", good + `{"ts":1,"channel":"a","data":"` + strings.Repeat("x", MaxLine) + `"}`, "rec:2: line longer than 1048576 bytes"},
		{"cut gzip", string(zipped(t, strings.Repeat(good, 1000))[:60]), "cut short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readAll(t, strings.NewReader(c.in))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestReaderLongestLine(t *testing.T) {
	head, tail := `{"ts":1,"channel":"a","data":"`, `"}`
	line := head + strings.Repeat("x", MaxLine-len(head)-len(tail)) + tail
	got, err := readAll(t, strings.NewReader(line+"\n"+line))
	if err != nil || len(got) != 2 {
		t.Fatalf("%d events, %v", len(got), err)
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "named-wrongly.txt")
	if err := os.WriteFile(path, zipped(t, `{"ts":7,"channel":"a","data":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Next()
	if err != nil || e.TS != 7 || r.Line() != 1 {
		t.Errorf("%+v, %v, line %d", e, err, r.Line())
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want not exist", err)
	}
	if _, err := readAll(t, strings.NewReader("")); err != nil {
		t.Errorf("empty recording: %v", err)
	}
}

func TestParseEvent(t *testing.T) {
	e, err := ParseEvent([]byte(`{"ch":"a","data": 1,"key":"k"}`))
	if want := (Event{Channel: "a", Data: []byte("1"), Key: "k"}); err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := ParseEvent([]byte(`{"ch":"a","channel":"b","data":1}`)); err == nil {
		t.Error("two different channels were accepted")
	}
}

func TestCheckChannel(t *testing.T) {
	for s, ok := range map[string]bool{
		"a": true, "trade.BTC-USD": true, "A_1.b-2.c": true, strings.Repeat("x", 128): true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "a b": false, "a.*": false, "é": false,
		strings.Repeat("x", 129): false,
	} {
		if err := CheckChannel(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Every line of every recording is read, and its data is the line's own bytes.
func TestRecordings(t *testing.T) {
	for name, want := range map[string]int{
		"multi-venue-31s.ndjson.gz": 59_472, "binance-burst-60s.ndjson.gz": 76_005,
		"multi-venue-head2000.ndjson": 2000, "binance-burst-peak1s.ndjson": 5807,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := recording(t, name)
			n := 0
			for {
				e, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				n++
				if e.Data[0] != '{' || e.Data[len(e.Data)-1] != '}' {
					t.Fatalf("line %d: data %s", n, e.Data)
				}
			}
			if n != want {
				t.Errorf("%d events, want %d", n, want)
			}
		})
	}
}

func TestSynthDeterminism(t *testing.T) {
	a, b := NewSynth(SynthConfig{Seed: 7}), NewSynth(SynthConfig{Seed: 7})
	other := NewSynth(SynthConfig{Seed: 8})
	same := 0
	last := int64(0)
	for i := range 20_000 {
		e, f := a.Next(), b.Next()
		if !reflect.DeepEqual(e, f) {
			t.Fatalf("event %d: %+v and %+v", i, e, f)
		}
		if string(e.Data) == string(other.Next().Data) {
			same++
		}
		if e.TS < last {
			t.Fatalf("event %d: time goes back by %d ns", i, last-e.TS)
		}
		last = e.TS
		if !json.Valid(e.Data) || CheckChannel(e.Channel) != nil {
			t.Fatalf("event %d: %s %s", i, e.Channel, e.Data)
		}
	}
	if same > 0 {
		t.Errorf("another seed gave %d equal events", same)
	}
}

func TestSynthRates(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{10, 1000, 50_000} {
		s := NewSynth(SynthConfig{Seed: 3, Rate: rate, Symbols: 500})
		first := s.Next().TS
		n, last := 1, first
		for time.Duration(last-first) < 5*time.Minute && n < 400_000 {
			last, n = s.Next().TS, n+1
		}
		got := float64(n) / (float64(last-first) / 1e9)
		if got < .6*rate || got > 1.5*rate {
			t.Errorf("rate %g: got %.0f events a second", rate, got)
		}
	}
}

// Prices walk but come back: after a quarter of an hour none has left its start's vicinity,
// and most have moved.
func TestSynthPrices(t *testing.T) {
	t.Parallel()
	s := NewSynth(SynthConfig{Seed: 5, Rate: 200, Symbols: 20})
	for range 200_000 {
		s.Next()
	}
	moved := 0
	for _, y := range s.symbols {
		d := y.price - y.base
		if d > .1 || d < -.1 {
			t.Errorf("%s moved by %.0f %%", y.name, 100*d)
		}
		if y.bid() != int64(0) && (d > 1e-4 || d < -1e-4) {
			moved++
		}
	}
	if moved < 15 {
		t.Errorf("%d of 20 prices moved", moved)
	}
}

// FuzzReader compares the reader with a slow reading of the same lines by
// encoding/json: the same events, and an error at the same line.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"ts":1,"channel":"a.b","data":{"x":[1,2]}}` + "\n\r\n" + `{"ts":2,"channel":"a","data":null}`))
	f.Add([]byte(`{"ts":1,"ch":"a","key":"k","data":" \u00e9"}` + "\r\n" + ` { "data" : 1e400, "channel":"a","ch":"a","ts":9223372036854775807 } `))
	f.Add([]byte(`{"ts":1,"channel":"a","ch":"b","data":1}`))
	f.Add([]byte(`{"TS":1,"Channel":"a","data":1,"data":2}` + "\n" + `{"ts":0,"channel":"a","data":1}`))
	f.Add([]byte(`{"ts":1,"channel":"a..b","data":1}`))
	f.Add([]byte("{}\n"))
	f.Add([]byte("\xef\xbb\xbf{}\n"))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte(`{"ts":1,"channel":"a","data":1}{`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.HasPrefix(in, []byte{0x1f, 0x8b}) {
			in = in[1:] // the checksums keep a fuzzer out; it is tried below, whole
		}
		got, err := readAll(t, bytes.NewReader(in))
		want, bad := slowly(in)
		if err != nil && !strings.HasPrefix(err.Error(), fmt.Sprintf("rec:%d: ", bad)) || err == nil && bad > 0 {
			t.Fatalf("%v; want an error at line %d", err, bad)
		}
		if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, slowly %+v", got, want)
		}
		var packed bytes.Buffer
		zip := gzip.NewWriter(&packed)
		zip.Write(in)
		zip.Close()
		unpacked, errUnpacked := readAll(t, bytes.NewReader(packed.Bytes()))
		if !reflect.DeepEqual(unpacked, got) || (err == nil) != (errUnpacked == nil) {
			t.Fatalf("gzipped: %+v, %v; plain %+v, %v", unpacked, errUnpacked, got, err)
		}
		if half, err := readAll(t, bytes.NewReader(packed.Bytes()[:packed.Len()-1])); err == nil || len(half) > len(got) {
			t.Fatalf("cut short: %d events of %d, %v", len(half), len(got), err)
		}
	})
}

// slowly reads the events before the first bad line, and that line's number, 0
// for none.
func slowly(in []byte) (events []Event, bad int) {
	name := regexp.MustCompile(`\A[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\z`)
	for i, text := range strings.Split(string(in), "\n") {
		if len(text) > MaxLine {
			return events, i + 1
		}
		text = strings.TrimSuffix(text, "\r")
		if len(bytes.TrimSpace([]byte(text))) == 0 {
			continue
		}
		var l struct {
			TS               int64
			Channel, Ch, Key string
			Data             json.RawMessage
		}
		if !utf8.ValidString(text) || json.Unmarshal([]byte(text), &l) != nil || l.TS <= 0 || l.Data == nil ||
			l.Channel != "" && l.Ch != "" && l.Ch != l.Channel {
			return events, i + 1
		}
		ch := cmp.Or(l.Channel, l.Ch)
		if !name.MatchString(ch) || len(ch) > MaxChannel {
			return events, i + 1
		}
		events = append(events, Event{TS: l.TS, Channel: ch, Data: l.Data, Key: l.Key})
	}
	return events, 0
}

func BenchmarkSynth(b *testing.B) {
	s := NewSynth(SynthConfig{})
	b.ReportAllocs()
	for b.Loop() {
		s.Next()
	}
}

func BenchmarkReader(b *testing.B) {
	line := `{"ts":1723161501051162096,"channel":"bbo.BINANCE_USDM.BTCUSDT","data":{"u":1007200616242,"e":"bookTicker","s":"ETHUSD_PERP","b":"2680.80","B":"180","a":"2680.81","A":"3382"}}` + "\n"
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEvent([]byte(line)); err != nil {
			b.Fatal(err)
		}
	}
}
