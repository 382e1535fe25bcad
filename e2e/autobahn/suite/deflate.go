package suite

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// window is the largest there is, RFC 7692 section 7.1.2: 2^15 bytes.
const window = 15

// maxInflated bounds what a message may inflate to, bytes.
const maxInflated = 32 << 20

// deflater is a connection's permessage-deflate, RFC 7692, as agreed. Its two
// halves are used by different goroutines.
type deflater struct {
	ourReset   bool // no context of ours outlives a message
	ourBits    int
	theirReset bool
	theirBits  int

	out   bytes.Buffer
	write *flate.Writer
	past  []byte // the end of what was received, at most 2^theirBits bytes
}

// newDeflater holds the server's answer against the offers, RFC 7692 section
// 7.1: it must accept one of them, and ask for nothing that was not offered.
func newDeflater(answer string, offers []string) (*deflater, error) {
	params, err := parameters(answer)
	if err != nil {
		return nil, err
	}
	for _, offer := range offers {
		offered, err := parameters(offer)
		if err != nil {
			return nil, err
		}
		if d := agree(params, offered); d != nil {
			d.write, _ = flate.NewWriter(&d.out, flate.DefaultCompression)
			return d, nil
		}
	}
	return nil, fmt.Errorf("the server's %q answers none of the offers %q", answer, offers)
}

// agree is what answer makes of an offer, nil when it is no answer to it.
func agree(answer, offer map[string]int) *deflater {
	d := &deflater{ourBits: window, theirBits: window}
	for name, value := range answer {
		_, was := offer[name]
		switch name {
		case "server_no_context_takeover":
			d.theirReset = true
		case "client_no_context_takeover":
			d.ourReset = true
		case "server_max_window_bits":
			if value < 8 || value > window {
				return nil
			}
			d.theirBits = value
		case "client_max_window_bits":
			if !was || value < 8 || value > window {
				return nil
			}
			d.ourBits = value
		default:
			return nil
		}
	}
	// What was demanded must be granted, but for a window that is the largest
	// anyway.
	if _, asked := offer["server_no_context_takeover"]; asked && !d.theirReset {
		return nil
	}
	if most, asked := offer["server_max_window_bits"]; asked && d.theirBits > most {
		return nil
	}
	return d
}

// parameters reads one permessage-deflate; a parameter without a value is 0.
func parameters(s string) (map[string]int, error) {
	name, rest, _ := strings.Cut(s, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		return nil, fmt.Errorf("extension %q, which was not offered", s)
	}
	params := map[string]int{}
	for p := range strings.SplitSeq(rest, ";") {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		name, value, has := strings.Cut(p, "=")
		n, err := strconv.Atoi(strings.Trim(value, `"`))
		if _, twice := params[name]; twice || has && err != nil {
			return nil, fmt.Errorf("parameter %q of %q", p, s)
		}
		params[name] = n
	}
	return params, nil
}

// tail is what a flush ends with and a message leaves out, section 7.2.1.
var tail = []byte{0, 0, 0xff, 0xff}

// deflate compresses a message. compress/flate knows one window only: a smaller
// one is kept by beginning anew before the distance could be too large.
func (d *deflater) deflate(b []byte) []byte {
	d.out.Reset()
	if d.ourReset || d.ourBits < window {
		d.write.Reset(&d.out)
	}
	for {
		n := len(b)
		if d.ourBits < window {
			n = min(n, 1<<d.ourBits)
		}
		_, _ = d.write.Write(b[:n])
		_ = d.write.Flush()
		if b = b[n:]; len(b) == 0 {
			return slices.Clone(bytes.TrimSuffix(d.out.Bytes(), tail))
		}
		d.write.Reset(&d.out)
	}
}

// inflate is a message of the server's. What it may refer to is what the agreed
// window still holds of the messages before.
func (d *deflater) inflate(b []byte) ([]byte, error) {
	// A last empty block, so that the reader knows where the message ends.
	in := io.MultiReader(bytes.NewReader(b), bytes.NewReader(tail), bytes.NewReader([]byte{1, 0, 0, 0xff, 0xff}))
	out, err := io.ReadAll(io.LimitReader(flate.NewReaderDict(in, d.past), maxInflated+1))
	switch {
	case err != nil:
		return nil, err
	case len(out) > maxInflated:
		return nil, errors.New("it has no end")
	}
	if !d.theirReset {
		d.past = append(d.past, out...)
		d.past = slices.Clone(d.past[max(0, len(d.past)-1<<d.theirBits):])
	}
	return out, nil
}
