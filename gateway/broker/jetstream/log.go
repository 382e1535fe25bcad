package jetstream

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog passes the embedded server's log on to slog and remembers the
// fatal line, which is the only place where the server says why it won't start.
type serverLog struct {
	log *slog.Logger
	// ownUser says that the only password is one we made up for this process;
	// written before the server starts.
	ownUser bool

	mu    sync.Mutex
	fatal string // guarded by mu
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(text(format, v)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.log.Error(text(format, v)) }
func (l *serverLog) Debugf(string, ...any)           {}
func (l *serverLog) Tracef(string, ...any)           {}

func (l *serverLog) Warnf(format string, v ...any) {
	if l.ownUser && strings.HasPrefix(format, "Plaintext passwords") {
		return
	}
	l.log.Warn(text(format, v))
}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fatal = text(format, v)
	l.log.Error(l.fatal)
}

func (l *serverLog) lastFatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *serverLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fatal = ""
}

func text(format string, v []any) string { return "nats-server: " + fmt.Sprintf(format, v...) }
