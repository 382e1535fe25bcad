package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// maxKeyFile bounds a file of API keys, bytes, and maxAPIKeys the keys in it:
	// each is compared at every request.
	maxKeyFile = 1 << 20
	maxAPIKeys = 1000
	// maxAPIKey is the longest key looked at, bytes.
	maxAPIKey = 512
	// keyPrefix begins a made key, so that scanners for secrets find it, and
	// keyBytes is how many random bytes follow: too many to try, which is why a
	// plain SHA-256 of it is enough.
	keyPrefix  = "odin_"
	keyBytes   = 32
	hashPrefix = "sha256:"
)

// Role is what an API key is for.
type Role string

// The roles. An admin may see and do everything, but publish only where its patterns
// say, as a publisher may. Who reads metrics may do nothing else.
const (
	RolePublish Role = "publish"
	RoleMetrics Role = "metrics"
	RoleAdmin   Role = "admin"
)

// APIKey is one line of a file of API keys. Immutable.
type APIKey struct {
	Name      string // for logs
	Role      Role
	Publishes *Patterns // where it may publish

	hash [sha256.Size]byte
}

// APIKeys are the keys of those who publish and look after a node. Make them with
// NewAPIKeys, and Close them. Any goroutine may use them.
type APIKeys struct {
	from    atomic.Pointer[keyFile]
	fails   atomic.Int64 // changes of the file that could not be used
	running sync.WaitGroup
}

// keyFile is a file of API keys, or lines as one has them, as it was read last.
type keyFile struct {
	list    atomic.Pointer[[]*APIKey] // nil before the first are read
	log     *slog.Logger
	watched *watched // nil: there is no file
	unwatch context.CancelFunc
}

// NewAPIKeys reads the keys of a file, which is read again when it changes, or
// without one of lines as a file has them. There must be at least one; a file from
// which the last one is taken later leaves none, and nobody passes.
func NewAPIKeys(file string, lines []byte, log *slog.Logger) (*APIKeys, error) {
	k := new(APIKeys)
	take, err := k.Prepare(file, lines, log)
	if err != nil {
		return nil, err
	}
	take()
	return k, nil
}

// Prepare reads another file, or the same again, or lines, as NewAPIKeys does, and
// returns what puts them in force, to be called once or not at all. One goroutine may
// call it, and what it returns.
func (k *APIKeys) Prepare(file string, lines []byte, log *slog.Logger) (take func(), err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &keyFile{log: log, unwatch: func() {}}
	if file == "" {
		err = f.take(lines)
	} else {
		f.watched = &watched{path: file, most: maxKeyFile, take: f.take, log: log, fails: &k.fails}
		err = f.watched.first()
	}
	if err != nil {
		return nil, err
	}
	return func() {
		if f.watched != nil {
			var ctx context.Context
			ctx, f.unwatch = context.WithCancel(context.Background())
			k.running.Go(func() { watch(ctx, []*watched{f.watched}) })
		}
		if old := k.from.Swap(f); old != nil {
			old.unwatch()
		}
	}, nil
}

// Close ends what runs in the background.
func (k *APIKeys) Close() {
	k.from.Load().unwatch()
	k.running.Wait()
}

// take reads lines: NAME ROLE PATTERNS sha256:HEX, with patterns joined by commas,
// or - for none. Lines that begin with # are for people.
func (k *keyFile) take(text []byte) error {
	var list []*APIKey
	n := 0
	for line := range bytes.Lines(text) {
		n++
		fields := strings.Fields(string(line))
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		key, err := parseAPIKey(fields)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		for _, other := range list {
			if other.Name == key.Name {
				return fmt.Errorf("line %d: there is another key called %q", n, key.Name)
			}
		}
		list = append(list, key)
	}
	switch {
	case len(list) == 0 && k.list.Load() == nil:
		return errors.New("there is no key in it: odin key new makes one")
	case len(list) == 0: // whoever took the last one out wants it to end
		k.log.Error("The last API key was taken out: nobody may use the admin port until there is one; odin key new makes one")
	case len(list) > maxAPIKeys:
		return fmt.Errorf("it has %d keys; at most %d are taken", len(list), maxAPIKeys)
	}
	k.list.Store(&list)
	return nil
}

func parseAPIKey(fields []string) (*APIKey, error) {
	if len(fields) != 4 || !strings.HasPrefix(fields[3], hashPrefix) {
		return nil, errors.New("want NAME ROLE PATTERNS sha256:HASH, as odin key new prints it") // never the line: it may be a key
	}
	key := &APIKey{Name: fields[0], Role: Role(fields[1])}
	if key.Role != RolePublish && key.Role != RoleMetrics && key.Role != RoleAdmin {
		return nil, errors.New("the role is publish, metrics or admin")
	}
	var patterns []string
	if fields[2] != "-" {
		if key.Role == RoleMetrics {
			return nil, errors.New("a key of role metrics publishes nowhere: it has no channels")
		}
		patterns = strings.Split(fields[2], ",")
	}
	var err error
	if key.Publishes, err = ParsePatterns(patterns); err != nil {
		return nil, err
	}
	hash, err := hex.DecodeString(fields[3][len(hashPrefix):])
	if err != nil || len(hash) != sha256.Size {
		return nil, fmt.Errorf("after %s want %d hexadecimal digits", hashPrefix, 2*sha256.Size)
	}
	copy(key.hash[:], hash)
	return key, nil
}

// Find returns the key a secret is of, nil when it is of none. The time it takes
// says nothing of how near the secret is to one.
func (k *APIKeys) Find(secret string) *APIKey {
	if len(secret) > maxAPIKey {
		return nil
	}
	hash := sha256.Sum256([]byte(secret))
	var found *APIKey
	for _, key := range *k.from.Load().list.Load() {
		if subtle.ConstantTimeCompare(hash[:], key.hash[:]) == 1 {
			found = key
		}
	}
	return found
}

// Len is how many keys there are. None lets nobody pass, not everybody.
func (k *APIKeys) Len() int { return len(*k.from.Load().list.Load()) }

// ReloadFails is how often the file was changed to what can't be used.
func (k *APIKeys) ReloadFails() int64 { return k.fails.Load() }

// NewAPIKey makes a key: the secret, which is nowhere else, and the line that
// stands for it in a file. patterns may be empty.
func NewAPIKey(name string, role Role, patterns []string) (secret, line string, err error) {
	random := make([]byte, keyBytes)
	if _, err := rand.Read(random); err != nil {
		return "", "", err
	}
	secret = keyPrefix + base64.RawURLEncoding.EncodeToString(random)
	line, err = APIKeyLine(secret, name, role, patterns)
	return secret, line, err
}

// APIKeyLine is the line that stands for a secret, as NewAPIKey made it, in a file.
// patterns may be empty.
func APIKeyLine(secret, name string, role Role, patterns []string) (string, error) {
	hash := sha256.Sum256([]byte(secret))
	list := strings.Join(patterns, ",")
	if list == "" {
		list = "-"
	}
	line := strings.Join([]string{name, string(role), list, hashPrefix + hex.EncodeToString(hash[:])}, " ")
	if fields := strings.Fields(line); len(fields) != 4 || name == "" || name[0] == '#' {
		return "", errors.New("a key's name is one word, and does not begin with #")
	} else if _, err := parseAPIKey(fields); err != nil {
		return "", err
	}
	return line, nil
}
