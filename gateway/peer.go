package gateway

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/wire"
)

// admitPeer holds a handshake against what its address may do. It returns the
// refusal, or counts the connection until forget. It costs a system call, and
// an entry in a map, only where such bounds are set.
func (s *shard) admitPeer(r connRef, c *slot, req *wire.Request) *wire.Refusal {
	if !s.live.boundsPeers() {
		return nil
	}
	if _, counted := s.peerOf[r.index]; counted {
		return nil // it waited for a place since
	}
	addr, err := s.loop.Peer(int(c.fd))
	if err != nil {
		return &wire.Refusal{Status: http.StatusBadRequest, Code: "bad_request", Message: "the connection has no address any more"}
	}
	addr = clientAddr(addr, req.ForwardedFor, s.live.TrustedProxies)
	switch v, _ := s.g.peers.Admit(addr, time.Now()); v {
	case capacity.IPAdmitted:
		s.peerOf[r.index] = addr
		return nil
	case capacity.IPTableFull:
		return refuseFull
	default:
		s.g.count.PeersRefused.Add(1)
		return &wire.Refusal{Status: http.StatusTooManyRequests, Code: v.String(), Message: "too many connections from this address"}
	}
}

// forgetPeer undoes admitPeer.
func (s *shard) forgetPeer(r connRef) {
	if addr, counted := s.peerOf[r.index]; counted {
		s.g.peers.Done(addr)
		delete(s.peerOf, r.index)
	}
}

// clientAddr is the address a connection counts for: its own, or, behind
// trusted proxies, the last one in X-Forwarded-For that is not such a proxy's.
// What a client writes there itself stands before, and is never reached.
func clientAddr(peer netip.Addr, forwarded string, trusted []netip.Prefix) netip.Addr {
	list := strings.Split(forwarded, ",")
	for i := len(list) - 1; i >= 0 && contains(trusted, peer); i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(list[i]))
		if err != nil {
			break
		}
		peer = addr.Unmap()
	}
	return peer
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
