package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// fetchEvery is how old a fetched set of keys may get, and so how long a key
	// that was taken out of it still counts.
	fetchEvery = 5 * time.Minute
	// fetchTimeout bounds one request.
	fetchTimeout = 10 * time.Second
	// fetchSpacing is how soon after another a token with an unknown key may cause
	// a request.
	fetchSpacing = 10 * time.Second
	// retryFirst and retryMost are how long a failed request waits to be repeated:
	// twice as long each time.
	retryFirst = time.Second
	retryMost  = time.Minute
	// maxRedirects is how many hops a request may be sent on.
	maxRedirects = 3
)

// fetched is a set of keys at a URL. Whoever looks a key up never waits for it.
type fetched struct {
	// Static.
	keySet
	at     *url.URL
	client *http.Client
	every  time.Duration
	log    *slog.Logger
	counts *counts
	stop   context.CancelFunc // nil before it runs; of who calls Prepare

	// Any goroutine.
	asked  *rate.Limiter // requests that unknown keys may cause
	ask    chan struct{}
	under  atomic.Bool  // a request is under way, or will be at once
	failed atomic.Bool  // the last one did
	good   atomic.Int64 // Unix ms of the last good one
}

func newFetched(at *url.URL, cfg *Config, counts *counts) *fetched {
	f := &fetched{
		at: at, every: cfg.FetchEvery, log: cfg.Log, counts: counts,
		asked: rate.NewLimiter(rate.Every(cfg.FetchSpacing), 1),
		ask:   make(chan struct{}, 1),
		client: &http.Client{
			Timeout: fetchTimeout,
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(req *http.Request, via []*http.Request) error {
				switch {
				case len(via) > maxRedirects:
					return errors.New("too many redirects")
				case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
					return errors.New("redirected from https to something else")
				}
				return nil
			},
		},
	}
	f.under.Store(true) // the first request
	return f
}

// run fetches the set at once, then every so often, and when asked to, until ctx
// ends.
func (f *fetched) run(ctx context.Context) {
	retry := retryFirst
	for {
		wait := f.every
		select {
		case <-f.ask: // what comes now will do for who has asked
		default:
		}
		err := f.fetch(ctx)
		if err == nil {
			retry = retryFirst
			f.good.Store(time.Now().UnixMilli())
		} else if ctx.Err() == nil {
			f.counts.fetchFails.Add(1)
			f.log.Error("A set of token keys could not be fetched; the last one stays in force", "url", Shown(f.at), "err", err, "retry_in", retry)
			wait = min(retry, f.every)
			retry = min(2*retry, retryMost)
		}
		f.failed.Store(err != nil)
		f.under.Store(false)
		f.counts.fetches.Add(1)
		if !f.sleep(ctx, wait) {
			return
		}
		f.under.Store(true)
	}
}

// sleep waits for the next request: for so long, or, if one is asked for, until that
// may be. It reports false when ctx ends.
func (f *fetched) sleep(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	case <-f.ask:
	}
	early := f.asked.Reserve().Delay()
	if early == 0 {
		return true
	}
	f.under.Store(false) // who found the allowance unspent was not alone
	soon := time.NewTimer(early)
	defer soon.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-soon.C:
	}
	return true
}

func (f *fetched) fetch(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.at.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := f.client.Do(req)
	if err != nil {
		var at *url.Error // its text has the URL, perhaps with a password
		if errors.As(err, &at) {
			err = at.Err
		}
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer is %s", res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	if err == nil && len(text) > maxKeySet {
		err = fmt.Errorf("the answer has more than %d bytes", maxKeySet)
	}
	if err != nil {
		return err
	}
	return f.take(text)
}

// refresh has the set fetched for a key that is not in it: at once, or, when that was
// done lately, as soon as it may be again if later is set. It reports whether a
// request is under way.
func (f *fetched) refresh(later bool) (under bool) {
	if f.under.Load() {
		return true
	}
	under = f.asked.Tokens() >= 1
	if !under && !later {
		return false
	}
	if under {
		f.under.Store(true)
	}
	select {
	case f.ask <- struct{}{}:
	default: // somebody else has asked
	}
	return under
}
