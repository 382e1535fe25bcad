package market

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// MaxLine is the longest line a Reader takes, bytes.
const MaxLine = 1 << 20

// Reader streams the events of a recording. It holds one line at a time.
// A bad line is an error, never skipped; after an error only the same error
// comes. It is not for concurrent use.
type Reader struct {
	name string
	src  io.ReadCloser // the file under it, nil when the caller owns the input
	zip  *gzip.Reader
	in   *bufio.Reader
	buf  []byte // the current line when it doesn't fit in's buffer
	n    int    // the current line's number, from 1
	err  error
}

// Open opens a recording, gzipped or not (its first bytes tell, not its name);
// "-" is standard input.
func Open(path string) (*Reader, error) {
	if path == "-" {
		return NewReader("standard input", os.Stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(path, f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	r.src = f
	return r, nil
}

// NewReader reads a recording from in; name is what errors call it.
func NewReader(name string, in io.Reader) (*Reader, error) {
	r := &Reader{name: name, in: bufio.NewReaderSize(in, 64<<10)}
	magic, err := r.in.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if r.zip, err = gzip.NewReader(r.in); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r.in = bufio.NewReaderSize(r.zip, 64<<10)
	}
	return r, nil
}

// Line is the number of the line last read, from 1.
func (r *Reader) Line() int { return r.n }

// Next returns the next event, or io.EOF after the last. Empty lines are
// passed over; any other line must be an event with "ts".
func (r *Reader) Next() (Event, error) {
	if r.err != nil {
		return Event{}, r.err
	}
	e, err := r.next()
	if err != nil {
		r.err = err
	}
	return e, err
}

func (r *Reader) next() (Event, error) {
	for {
		b, err := r.line()
		if err != nil {
			return Event{}, err
		}
		if len(bytes.TrimSpace(b)) == 0 {
			continue
		}
		e, err := ParseEvent(b)
		if err == nil && e.TS == 0 {
			err = errors.New(`no "ts"`)
		}
		if err != nil {
			return Event{}, r.fail(err)
		}
		return e, nil
	}
}

// line returns the next line without its end, valid until the next call.
func (r *Reader) line() ([]byte, error) {
	r.n++
	r.buf = r.buf[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		if len(r.buf)+len(part) > MaxLine+1 {
			return nil, r.fail(fmt.Errorf("line longer than %d bytes", MaxLine))
		}
		switch {
		case err == nil || errors.Is(err, io.EOF) && len(r.buf)+len(part) > 0:
			if len(r.buf) > 0 {
				r.buf = append(r.buf, part...)
				part = r.buf
			}
			part = bytes.TrimSuffix(part, []byte("\n"))
			if len(part) > MaxLine {
				return nil, r.fail(fmt.Errorf("line longer than %d bytes", MaxLine))
			}
			return bytes.TrimSuffix(part, []byte("\r")), nil
		case errors.Is(err, io.EOF):
			r.n--
			return nil, io.EOF
		case errors.Is(err, bufio.ErrBufferFull):
			r.buf = append(r.buf, part...)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, r.fail(errors.New("the gzip file ends in the middle: it was cut short"))
		default:
			return nil, r.fail(err)
		}
	}
}

func (r *Reader) fail(err error) error {
	return fmt.Errorf("%s:%d: %w", r.name, r.n, err)
}

// Close closes a file that Open opened.
func (r *Reader) Close() error {
	if r.zip != nil {
		_ = r.zip.Close()
	}
	if r.src == nil {
		return nil
	}
	return r.src.Close()
}
