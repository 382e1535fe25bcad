package gateway

import (
	"context"
	"net/http"
	"strings"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/web"
)

// adminPaths are those of the admin port that an API key of another role than
// admin's may use, or none: what is not here is an admin's alone, also what is yet to
// be added.
var adminPaths = func() map[string]auth.Role {
	paths := map[string]auth.Role{
		"/v1/publish":       auth.RolePublish,
		"/v1/publish/batch": auth.RolePublish,
		"/metrics":          auth.RoleMetrics,
		"/healthz":          "",
		"/readyz":           "",
		"/stats":            "", // they are on the public port too
		"/ws":               "", // it asks for an admin's key itself, once the page can show one
	}
	for _, path := range web.Paths() { // the page asks for the key
		paths[path] = ""
	}
	return paths
}()

// keyedFor says what a role is for.
var keyedFor = map[auth.Role]string{auth.RolePublish: "publishing", auth.RoleMetrics: "/metrics"}

// keyedBy is the context key of a request's *auth.APIKey.
type keyedBy struct{}

// guardKeys lets only who has an API key of the right role through, where keys are
// configured.
func (g *Gateway) guardKeys(h http.Handler) http.Handler {
	if g.cfg.APIKeys == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role, listed := adminPaths[r.URL.Path]
		if !listed {
			role = auth.RoleAdmin
		}
		if role == "" {
			h.ServeHTTP(w, r)
			return
		}
		key := g.cfg.APIKeys.Find(shownKey(r))
		switch {
		case key == nil:
			g.count.AuthFailed[auth.BadAPIKey].Add(1)
			g.sampled("api key", "an API key was refused, or is missing", "addr", r.RemoteAddr)
			w.Header().Add("WWW-Authenticate", `Bearer realm="odin admin"`)
			if role == auth.RoleAdmin { // for people with a browser
				w.Header().Add("WWW-Authenticate", `Basic realm="odin admin: any name, the API key as password"`)
			}
			writeError(w, http.StatusUnauthorized, "unauthorized", auth.BadAPIKey.Error(), 0)
		case key.Role != role && key.Role != auth.RoleAdmin:
			g.count.KeysForbidden.Add(1)
			writeError(w, http.StatusForbidden, "forbidden", "this key is for "+keyedFor[key.Role]+" only", 0)
		default:
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keyedBy{}, key)))
		}
	})
}

// shownKey is the API key of a request, "" without: X-API-Key, or Authorization as
// a bearer token or the password of anybody, or, of a WebSocket handshake, the
// subprotocol that carries a token.
func shownKey(r *http.Request) string {
	if keys := r.Header["X-Api-Key"]; len(keys) > 0 {
		return keys[0]
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	if scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(key)
	}
	for p := range strings.SplitSeq(r.Header.Get("Sec-Websocket-Protocol"), ",") {
		if key, ok := strings.CutPrefix(strings.TrimSpace(p), tokenProtocol); ok {
			return key
		}
	}
	return ""
}

// mayPublish reports whether a request's key is for a channel. Without keys any
// request may.
func (g *Gateway) mayPublish(ctx context.Context, channel string) bool {
	if g.cfg.APIKeys == nil {
		return true
	}
	key, ok := ctx.Value(keyedBy{}).(*auth.APIKey)
	return ok && key.Publishes.Covers(channel)
}
