package jetstream

// maxHeads bounds how many channels' last sequences are remembered: about
// 10 MB at the worst. It is a cache: who isn't in it is looked up.
const maxHeads = 1 << 16

// heads remembers the last sequence of each channel, for messages read from
// the stream: those carry no prev. The zero value is empty.
type heads struct {
	seqs map[string]uint64
}

// get returns 0 when the channel isn't known.
func (h *heads) get(channel string) uint64 { return h.seqs[channel] }

func (h *heads) set(channel string, seq uint64) {
	if h.seqs == nil {
		h.seqs = make(map[string]uint64)
	}
	h.seqs[channel] = seq
	if len(h.seqs) > maxHeads {
		for other := range h.seqs { // any will do
			if other != channel {
				delete(h.seqs, other)
				break
			}
		}
	}
}

func (h *heads) clear() { h.seqs = nil }
