package auth

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MaxToken is the longest token looked at, bytes: what fits a header line.
	MaxToken = 8 << 10
	// maxKeyID bounds the header kid.
	maxKeyID = 512
	// leeway is how much the clocks of an issuer and of this machine may differ
	// where a token's beginning is concerned. Its end is exact, so that a token
	// that is let in is not cut for its age a moment later.
	leeway = 5 * time.Second
)

// Config is what Tokens need. Keys or KeySets must have something.
type Config struct {
	Keys          []Key    // of files: tried whatever kid says
	KeySets       []string // files, and http or https URLs, of sets of keys (JWKS)
	Issuers       []string // iss must be one of these; none: it is not looked at
	Audiences     []string // aud must have one of these; none: it is not looked at
	DefaultRead   []string // patterns for tokens without the claim channels; none: they read nothing
	AnonymousRead []string // patterns that need no token; none: everybody needs one
	Revoked       string   // file of revocations, "" for none
	Log           *slog.Logger

	// FetchEvery is how often a set at a URL is fetched, 0 for 5 minutes, and
	// FetchSpacing how soon after another an unknown key may cause a fetch, 0 for
	// 10 seconds.
	FetchEvery, FetchSpacing time.Duration
	// Now is the clock, nil for time.Now.
	Now func() time.Time
}

// Tokens verify tokens. Make them with NewTokens, and Close them. Any goroutine
// may use them, and none waits for the network or a disk.
type Tokens struct {
	// Static.
	now     func() time.Time
	cancel  context.CancelFunc
	ctx     context.Context // of what runs in the background
	running sync.WaitGroup

	// Any goroutine.
	rules  atomic.Pointer[rules]
	grants grants
	counts
}

// counts outlive the rules that are exchanged.
type counts struct {
	fails      atomic.Int64  // changes of files that could not be used
	fetches    atomic.Uint64 // of sets at URLs: those that have ended, and changes of the rules
	fetchFails atomic.Int64  // of those, the ones that failed
}

// rules are what tokens are held against: one Config, read. Static, but for what its
// parts say of themselves.
type rules struct {
	keys      []Key
	sets      []*keySet // of files and of URLs
	fetched   []*fetched
	issuers   []string
	fallback  *Patterns // Config.DefaultRead
	anonymous *Patterns // nil: nothing without a token
	parser    *jwt.Parser
	revoked   revocations
	files     []*watched
	unwatch   context.CancelFunc // ends the looks at files
}

// Session is what one good token allows, and until when.
type Session struct {
	Grant *Grant
	Until int64 // Unix ms: the claim exp

	id fingerprint // of jti
}

// NewTokens reads the files, which must be good, and begins to fetch the sets at
// URLs, which need not be there yet.
func NewTokens(cfg Config) (*Tokens, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t := &Tokens{now: cfg.Now}
	take, err := t.Prepare(cfg)
	if err != nil {
		return nil, err
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	take()
	return t, nil
}

// Check reads the files of a Config and says what NewTokens would refuse.
func Check(cfg Config) error {
	_, err := (&Tokens{now: time.Now}).Prepare(cfg)
	return err
}

// Prepare reads another Config as NewTokens does, its clock excepted, and returns what
// puts it in force, to be called once or not at all. Sets at URLs that it has in common
// with the one before are kept as they were fetched last. Sessions there are stay good
// until they end or are revoked. One goroutine may call it, and what it returns.
func (t *Tokens) Prepare(cfg Config) (take func(), err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.FetchEvery == 0 {
		cfg.FetchEvery = fetchEvery
	}
	if cfg.FetchSpacing == 0 {
		cfg.FetchSpacing = fetchSpacing
	}
	if len(cfg.Keys)+len(cfg.KeySets) == 0 {
		return nil, errors.New("auth: no key to verify tokens with")
	}
	r := &rules{keys: cfg.Keys, issuers: cfg.Issuers}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(t.now),
		jwt.WithStrictDecoding(),
	}
	if len(cfg.Audiences) > 0 {
		options = append(options, jwt.WithAudience(cfg.Audiences...))
	}
	r.parser = jwt.NewParser(options...)
	if r.fallback, err = ParsePatterns(cfg.DefaultRead); err != nil {
		return nil, err
	}
	if len(cfg.AnonymousRead) > 0 {
		if r.anonymous, err = ParsePatterns(cfg.AnonymousRead); err != nil {
			return nil, err
		}
	}
	if err := t.open(r, &cfg); err != nil {
		return nil, err
	}
	return func() { t.take(r) }, nil
}

// open reads what the configuration names.
func (t *Tokens) open(r *rules, cfg *Config) error {
	for _, name := range cfg.KeySets {
		at, err := ParseKeySet(name)
		if err != nil {
			return err
		}
		if at != nil {
			f := t.fetchedFrom(at)
			if f == nil {
				f = newFetched(at, cfg, &t.counts)
			}
			r.fetched, r.sets = append(r.fetched, f), append(r.sets, &f.keySet)
			continue
		}
		set := &keySet{secrets: true}
		r.sets = append(r.sets, set)
		r.files = append(r.files, &watched{path: name, most: maxKeySet, take: set.take, log: cfg.Log, fails: &t.fails})
	}
	if cfg.Revoked != "" {
		r.files = append(r.files, &watched{path: cfg.Revoked, most: maxRevoked, take: r.revoked.take, log: cfg.Log, fails: &t.fails})
	}
	for _, f := range r.files {
		if err := f.first(); err != nil {
			return err
		}
	}
	return nil
}

// fetchedFrom is the set at a URL that is in force, nil for none.
func (t *Tokens) fetchedFrom(at *url.URL) *fetched {
	if r := t.rules.Load(); r != nil {
		for _, f := range r.fetched {
			if f.at.String() == at.String() {
				return f
			}
		}
	}
	return nil
}

// take puts rules in force and ends what only those before needed.
func (t *Tokens) take(r *rules) {
	ctx, unwatch := context.WithCancel(t.ctx)
	r.unwatch = unwatch
	if len(r.files) > 0 {
		t.running.Go(func() { watch(ctx, r.files) })
	}
	for _, f := range r.fetched {
		if f.stop == nil {
			var ctx context.Context
			ctx, f.stop = context.WithCancel(t.ctx)
			t.running.Go(func() { f.run(ctx) })
		}
	}
	old := t.rules.Swap(r)
	if old == nil {
		return
	}
	old.unwatch()
	for _, f := range old.fetched {
		if !slices.Contains(r.fetched, f) {
			f.stop()
		}
	}
	t.fetches.Add(1) // what waits for a key may have it now
}

// ParseKeySet reads the name of a set of keys: its URL, or nil for a file.
func ParseKeySet(name string) (*url.URL, error) {
	if !strings.Contains(name, "://") {
		return nil, nil
	}
	at, err := url.Parse(name)
	if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" {
		return nil, errors.New("want a file, or an http or https URL")
	}
	return at, nil
}

// Exposed reports whether a set of keys comes in the clear over a network, where
// it could be exchanged.
func Exposed(at *url.URL) bool {
	if at == nil || at.Scheme != "http" {
		return false
	}
	ip, err := netip.ParseAddr(at.Hostname())
	return !(err == nil && ip.IsLoopback() || at.Hostname() == "localhost")
}

// Shown is a set's URL without what may be secret: who asks for it, and its query.
func Shown(at *url.URL) string {
	plain := url.URL{Scheme: at.Scheme, Host: at.Host, Path: at.Path}
	return plain.String()
}

// watch looks at files until ctx ends.
func watch(ctx context.Context, files []*watched) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, f := range files {
				f.look()
			}
		}
	}
}

// Close ends what runs in the background. What was verified stays good.
func (t *Tokens) Close() {
	t.cancel()
	t.running.Wait()
}

// Anonymous says what may be read without a token; nil: nobody comes in without.
func (t *Tokens) Anonymous() *Patterns { return t.rules.Load().anonymous }

// Revoked reports whether a session's token, or its subject, has been revoked.
func (t *Tokens) Revoked(s *Session) bool { return t.rules.Load().revoked.has(s) }

// channels reads the claim of that name: an array of patterns, or one text with
// spaces between them. ok is false for anything else.
func channels(claim any) (list []string, ok bool) {
	switch claim := claim.(type) {
	case string:
		return strings.Fields(claim), true
	case []any:
		for _, item := range claim {
			text, ok := item.(string)
			if !ok {
				return nil, false
			}
			list = append(list, text)
		}
		return list, true
	}
	return nil, false
}

// Verify says what a token allows, or why it allows nothing. It takes tens of
// microseconds with HMAC and ten times that with ECDSA. After Fetching ask
// VerifyAgain, once Fetches has grown.
func (t *Tokens) Verify(token string) (Session, Reason) { return t.verify(token, false) }

// VerifyAgain is Verify for a token whose key was being fetched when it was asked
// about first. It has nothing fetched: a key that is still in no set is not known.
func (t *Tokens) VerifyAgain(token string) (Session, Reason) { return t.verify(token, true) }

// Fetches grows whenever a set was fetched, or could not be, and when the Config
// changes. While it stays the same, so does what becomes of a token whose key is being
// fetched.
func (t *Tokens) Fetches() uint64 { return t.fetches.Load() }

func (t *Tokens) verify(token string, again bool) (Session, Reason) {
	if len(token) > MaxToken {
		return Session{}, Malformed
	}
	c := jwt.MapClaims{} // no struct: its fields would match other spellings, such as EXP
	r := t.rules.Load()
	look := lookup{rules: r, again: again}
	if _, err := r.parser.ParseWithClaims(token, c, look.keys); err != nil {
		return Session{}, look.reason(err)
	}
	exp, err := c.GetExpirationTime()
	if err != nil || exp == nil || !t.now().Before(exp.Time) {
		return Session{}, Expired // the parser lets it pass within the leeway
	}
	if issuer, err := c.GetIssuer(); len(r.issuers) > 0 && (err != nil || !slices.Contains(r.issuers, issuer)) {
		return Session{}, Issuer
	}
	subject, err := c.GetSubject()
	id, named := c["jti"].(string)
	if _, has := c["jti"]; err != nil || has && !named {
		return Session{}, Claims
	}
	reads := r.fallback
	if claim, has := c["channels"]; has {
		list, ok := channels(claim)
		if reads, err = ParsePatterns(list); !ok || err != nil || len(list) > MaxPatterns {
			return Session{}, Claims
		}
	}
	s := Session{Grant: t.grants.of(subject, reads), Until: math.MaxInt64, id: fingerprintOf("jti", id)}
	if exp.Unix() < math.MaxInt64/1000-1 {
		s.Until = exp.UnixMilli()
	}
	if r.revoked.has(&s) {
		return Session{}, Revoked
	}
	return s, OK
}

// lookup is the search for one token's key.
type lookup struct {
	rules   *rules
	again   bool // it was looked for before, and a set was fetched for it
	begun   bool // the header is one whose key was looked for
	unknown bool // kid is in no set
	unread  bool // some set was never fetched
	odd     bool // kid is none that an issuer gives: missing, or a locator
}

// keys returns those the token may have been signed with: of its algorithm, and
// named by its kid if a set has that.
func (l *lookup) keys(token *jwt.Token) (any, error) {
	if _, has := token.Header["crit"]; has {
		return nil, Malformed
	}
	id, ok := keyID(token.Header)
	if !ok {
		return nil, UnknownKey
	}
	l.begun = true
	r := l.rules
	var all, nameless []Key
	for _, set := range r.sets {
		keys, read := set.named(id)
		all, l.unread = append(all, keys...), l.unread || !read
		nameless = append(nameless, set.nameless()...)
	}
	l.unknown = len(r.sets) > 0 && len(all) == 0
	l.odd = id == "" || locator(id)
	if id == "" || len(all) == 0 && !l.odd {
		all = append(append(all, nameless...), r.keys...)
	}
	found := slices.DeleteFunc(slices.Clone(all), func(k Key) bool { return k.alg != token.Method.Alg() })
	switch {
	case len(found) > 0:
		return verifiers(found), nil
	case len(all) > 0:
		return nil, l.missing(Algorithm)
	}
	return nil, l.missing(UnknownKey)
}

// missing is why a token is refused that no key at hand has signed: final, unless its
// key may be in a set that is on its way, or can't be had just now.
func (l *lookup) missing(final Reason) Reason {
	r := l.rules
	switch {
	case !l.unknown || len(r.fetched) == 0:
		return final
	case l.unread:
		return Unavailable
	}
	under, failed := false, false
	for _, f := range r.fetched {
		if l.again {
			under = f.under.Load() || under
		} else {
			under = f.refresh(!l.odd) || under
		}
		failed = f.failed.Load() || failed
	}
	switch {
	case under:
		return Fetching
	case !l.odd && (failed || !l.again): // another token has just had the set fetched
		return Unavailable
	}
	return final
}

// keyID is the token's kid, "" without. It is only ever compared with those of
// known keys.
func keyID(header map[string]any) (id string, ok bool) {
	switch kid := header["kid"].(type) {
	case nil:
		return "", true
	case string:
		return kid, len(kid) <= maxKeyID
	default:
		return "", false
	}
}

// locator reports whether a kid looks like a path, an address or a query. One that
// no set has is otherwise an issuer's business, and keys without a name are tried;
// nobody who means well sends one of these.
func locator(kid string) bool {
	return strings.ContainsAny(kid, "/\\:|;'\"<> ") || strings.Contains(kid, "..") ||
		strings.ContainsFunc(kid, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// reason is why the parser refused.
func (l *lookup) reason(err error) Reason {
	var own Reason
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		if !l.begun {
			return Algorithm // of none that is accepted
		}
		return l.missing(Signature) // it may be of a key that is new, not of those without a name
	case errors.Is(err, jwt.ErrTokenUnverifiable):
		return Algorithm
	case errors.Is(err, jwt.ErrTokenExpired):
		return Expired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return NotYet
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return Audience
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return Claims
	}
	return Malformed
}

// TokenStats is the condition of Tokens.
type TokenStats struct {
	Keys       int   // of files and sets
	Grants     int   // different ones in use, or not yet collected
	Revoked    int   // entries of the list
	FetchFails int64 // of sets at URLs
	FileFails  int64 // changes of files that could not be used
	OldestMs   int64 // since the set that is longest out of date was fetched; -1: one never was
}

// Stats reads it.
func (t *Tokens) Stats() TokenStats {
	r := t.rules.Load()
	s := TokenStats{
		Keys: len(r.keys), Grants: t.grants.bySubject.size(), Revoked: r.revoked.size(),
		FileFails: t.fails.Load(), FetchFails: t.fetchFails.Load(),
	}
	for _, set := range r.sets {
		s.Keys += set.size()
	}
	for _, f := range r.fetched {
		good := f.good.Load()
		switch {
		case good == 0 || s.OldestMs < 0:
			s.OldestMs = -1
		default:
			s.OldestMs = max(s.OldestMs, time.Now().UnixMilli()-good)
		}
	}
	return s
}
