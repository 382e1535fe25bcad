package gateway

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/sysfeed"
	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// statsChannel is the one channel of the admin port's /ws.
	statsChannel = "_sys.stats"
	// statsEvery is the time between its messages.
	statsEvery = time.Second
	// maxPages is how many may be connected to it: a quarter of the admin port, so that
	// forgotten pages leave room for who publishes and scrapes.
	maxPages = maxAdminConns / 4
)

// liveStats is a message of _sys.stats: what /stats says, and what only an admin is
// told.
type liveStats struct {
	Stats
	NotReady string        `json:"notReady,omitempty"` // the reason of /readyz
	Detail   string        `json:"notReadyDetail,omitempty"`
	Recent   recentStats   `json:"recent"`
	Top      []topChannel  `json:"topChannels"`
	Settings settingsStats `json:"settings"`
}

type recentStats struct {
	Refusals []refusal `json:"refusals"` // newest first, at most 128
}

// settingsStats are the settings that figures are judged by.
type settingsStats struct {
	SendQueue     int     `json:"sendQueue"`
	SlowTimeoutMs float64 `json:"slowTimeoutMs"`
	MaxChannels   int     `json:"maxChannels"`
}

// newFeed makes the endpoint of _sys.stats. It samples once a second for all who
// follow it, and only while somebody does.
func (g *Gateway) newFeed() *sysfeed.Feed {
	var top topChannels // the sampler's
	cfg := sysfeed.Config{
		Channel: statsChannel, Every: statsEvery, Most: maxPages, Node: g.node,
		Sample: func() []byte { return g.sample(&top) },
		Idle:   top.forget,
		Ping:   g.cfg.Ping, FrameTimeout: g.cfg.FrameTimeout,
		Heartbeat: func() time.Duration { return g.live.Load().Heartbeat },
		Rate:      func() (int, int) { l := g.live.Load(); return l.RateBurst, l.RatePerSec },
		Pool:      g.pool, Retry: drainRetry,
	}
	if keys := g.cfg.APIKeys; keys != nil {
		cfg.Allowed = func(text string) bool {
			key := keys.Find(text)
			return key != nil && key.Role == auth.RoleAdmin
		}
		cfg.Admit, cfg.Refused = g.admitPage, g.refusedKey
	}
	return sysfeed.New(cfg)
}

func (g *Gateway) sample(top *topChannels) []byte {
	set := g.live.Load()
	live := liveStats{
		Stats: g.Stats(), Recent: recentStats{g.recent.list()}, Top: top.look(g),
		Settings: settingsStats{set.SendQueue, float64(set.SlowTimeout.Milliseconds()), g.cfg.MaxChannels},
	}
	live.NotReady, live.Detail = g.notReady()
	b, err := json.Marshal(live)
	if err != nil { // a figure that JSON has no word for
		g.sampled("stats", "the status page's figures can't be written", "err", err)
		return []byte("{}")
	}
	return b
}

var refuseKey = &wire.Refusal{
	Status: http.StatusUnauthorized, Code: "unauthorized", Message: auth.BadAPIKey.Error(),
	Header: [][2]string{{"WWW-Authenticate", `Bearer realm="odin admin"`}},
}

var refuseRole = &wire.Refusal{Status: http.StatusForbidden, Code: "forbidden", Message: "this key is not one of an administrator"}

// admitPage looks at the key that a handshake of the admin port's /ws shows. One that
// shows none is let in, for a page can show its key only then: with the op auth, or
// it is closed.
func (g *Gateway) admitPage(r *http.Request) (text string, ref *wire.Refusal) {
	text = shownKey(r)
	if text == "" {
		return "", nil
	}
	switch key := g.cfg.APIKeys.Find(text); {
	case key == nil:
		g.refusedKey(r.RemoteAddr)
		return "", refuseKey
	case key.Role != auth.RoleAdmin:
		g.count.KeysForbidden.Add(1)
		return "", refuseRole
	}
	return text, nil
}

// refusedKey counts and logs a key that was not accepted.
func (g *Gateway) refusedKey(addr string) {
	g.count.AuthFailed[auth.BadAPIKey].Add(1)
	g.sampled("api key", "an API key was refused, or is missing", "addr", addr)
}
