package gateway

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/pprof"
	"sort"
	"strings"
	"time"

	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/web"
)

// quietLog swallows net/http's complaints about clients: they are counted.
var quietLog = log.New(io.Discard, "", 0)

// startAdmin serves the admin port.
func (g *Gateway) startAdmin() {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/publish", only(http.MethodPost, g.handlePublish))
	mux.HandleFunc("/v1/publish/batch", only(http.MethodPost, g.handlePublishBatch))
	mux.HandleFunc("/v1/channels", only(http.MethodGet, g.handleChannels))
	mux.HandleFunc("/v1/channels/{ch}/history", only(http.MethodGet, g.handleHistory))
	mux.HandleFunc("/connz", only(http.MethodGet, g.handleConnz))
	mux.HandleFunc("/stats", only(http.MethodGet, g.plain.stats))
	mux.HandleFunc("/healthz", only(http.MethodGet, g.plain.healthz))
	mux.HandleFunc("/readyz", only(http.MethodGet, g.plain.readyz))
	mux.HandleFunc("/metrics", only(http.MethodGet, g.metricsHandler().ServeHTTP))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/ws", g.feed)
	page := web.Handler()
	for _, path := range web.Paths() {
		mux.HandleFunc(exactly(path), only(http.MethodGet, page.ServeHTTP))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not_found", "there is nothing here; docs/protocol.md lists the paths", 0)
	})
	g.admin = &http.Server{
		Handler:           boundBodies(g.guardAdmin(g.guardKeys(mux)), bodyTimeout),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          quietLog,
	}
	bounded := newBoundListener(patientListener{g.adminLn}, maxAdminConns, func() { g.count.AdminRefused.Add(1) })
	go g.admin.Serve(bounded)
}

// exactly is the ServeMux pattern of one path.
func exactly(path string) string {
	if strings.HasSuffix(path, "/") {
		return path + "{$}"
	}
	return path
}

func (g *Gateway) stopAdmin() {
	g.feed.Close()
	if g.admin == nil {
		if g.adminLn != nil {
			g.adminLn.Close()
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if g.admin.Shutdown(ctx) != nil {
		g.admin.Close()
	}
}

// only serves one method (and HEAD with GET), and answers others as the rest of
// the errors are: the ServeMux's own 405 is for people only.
func only(method string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", method)
			writeError(w, http.StatusMethodNotAllowed, "method_not_allowed", "this path is for "+method, 0)
			return
		}
		h(w, r)
	}
}

// guardAdmin keeps web pages in a browser on this machine from publishing, and from
// making the gateway work: a foreign Host is DNS rebinding, a foreign Origin another
// site's page, and so is what fetches without an Origin, such as an image. With API keys
// the host may be any: a page has no key for it.
func (g *Gateway) guardAdmin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origins := r.Header["Origin"]
		ours := len(origins) == 0 || len(origins) == 1 && (origins[0] == "http://"+r.Host || origins[0] == "https://"+r.Host)
		if !ours || embeds(r) || g.cfg.APIKeys == nil && !loopback(hostPort(r.Host)) {
			writeError(w, http.StatusForbidden, "forbidden", "the admin port answers this machine only, and no web page of another site", 0)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// embeds reports whether a page of another site wants something for itself, and not
// because somebody follows its link; browsers say so (https://www.w3.org/TR/fetch-metadata/).
func embeds(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site": // same-site: another port of this machine
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
	}
	return false
}

// channelInfo is one line of GET /v1/channels.
type channelInfo struct {
	Channel string `json:"ch"`
	Seq     uint64 `json:"seq"`
	Kept    uint64 `json:"kept"` // messages in memory
}

// handleChannels lists the channels this node knows.
func (g *Gateway) handleChannels(w http.ResponseWriter, _ *http.Request) {
	var list []channelInfo
	g.hub.Each(func(ch *channel.Channel) {
		next, seq := ch.Head()
		first, _ := ch.Begin()
		list = append(list, channelInfo{Channel: ch.Name, Seq: seq, Kept: next - first})
	})
	sort.Slice(list, func(i, j int) bool { return list[i].Channel < list[j].Channel })
	writeJSON(w, http.StatusOK, map[string]any{"epoch": g.hub.Epoch(), "head": g.hub.Head(), "channels": list})
}
