package auth

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// lookEvery is how often files are looked at for changes.
const lookEvery = time.Second

// watched is a file that is read again when it changes. It is looked at, not
// waited for: that also sees what Kubernetes does, which exchanges links. One that is
// written in place may be read half: who changes it should write another and rename
// it. One goroutine's.
type watched struct {
	path  string
	most  int64 // bytes it may have
	take  func([]byte) error
	log   *slog.Logger
	seen  os.FileInfo
	wrong string        // what was last said to be wrong with it
	fails *atomic.Int64 // counts what was
}

// first reads the file, which must be good.
func (w *watched) first() error {
	info, text, err := w.read()
	if err == nil {
		err = w.take(text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.path, err)
	}
	w.seen = info
	return nil
}

// look reads the file again if it has changed. What is wrong with it is logged
// once, and what was read before stays in force.
func (w *watched) look() {
	info, err := os.Stat(w.path)
	if err == nil && w.seen != nil && os.SameFile(info, w.seen) && info.ModTime().Equal(w.seen.ModTime()) && info.Size() == w.seen.Size() {
		return
	}
	var text []byte
	if err == nil {
		info, text, err = w.read()
	}
	if err == nil {
		w.seen = info
		err = w.take(text)
	}
	switch {
	case err == nil:
		w.wrong = ""
		w.log.Info("A changed file was read again", "file", w.path)
	case err.Error() != w.wrong:
		w.wrong = err.Error()
		w.fails.Add(1)
		w.log.Error("A changed file can't be used; what it said before stays in force", "file", w.path, "err", err)
	}
}

func (w *watched) read() (os.FileInfo, []byte, error) {
	f, err := os.Open(w.path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, w.most+1))
	if err == nil && int64(len(text)) > w.most {
		err = fmt.Errorf("it has more than %d bytes", w.most)
	}
	return info, text, err
}
