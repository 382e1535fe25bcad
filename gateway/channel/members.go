package channel

// Member is one subscriber of a channel on one shard: 16 bytes.
type Member struct {
	Conn uint32 // the connection's slot
	ord  uint32 // low half of the ordinal of the entry to send next
	Seq  uint64 // of the last message sent, or that the position was made of
}

// Ord is the ordinal of the entry to send next, given the log's Next (Head):
// a member is never 2^31 entries behind, because the log never holds that many.
func (m *Member) Ord(next uint64) uint64 { return next - uint64(uint32(next)-m.ord) }

// Behind reports whether there is something to send.
// next may be one that the member is ahead of: up to where the log is compressed.
func (m *Member) Behind(next uint64) bool { return int32(uint32(next)-m.ord) > 0 }

// Lag is how many entries the member is behind.
func (m *Member) Lag(next uint64) uint32 { return uint32(max(0, int32(uint32(next)-m.ord))) }

// Read notes the newest sequence read from the channel's past; the ordinal stays.
func (m *Member) Read(seq uint64) { m.Seq = seq }

// Move sets the position.
func (m *Member) Move(ord, seq uint64) { m.ord, m.Seq = uint32(ord), seq }

// Members is the array of a channel's subscribers on one shard, owned by that
// shard. It can be walked in turns, with members coming and going in between:
// none is visited twice or left out for another's going.
type Members struct {
	list   []Member
	cursor int // members before it were visited in this walk
}

// Len is the number of members.
func (ms *Members) Len() int { return len(ms.list) }

// At returns the member at index i; the pointer is valid until the next Add or
// Remove.
func (ms *Members) At(i uint32) *Member { return &ms.list[i] }

// Add appends a member and returns its index.
func (ms *Members) Add(m Member) uint32 {
	ms.list = append(ms.list, m)
	return uint32(len(ms.list) - 1)
}

// Remove takes the member at index i out. Others move into its place: moved is
// called with each one's connection and new index.
func (ms *Members) Remove(i uint32, moved func(conn, index uint32)) {
	last := len(ms.list) - 1
	hole := int(i)
	if hole < ms.cursor {
		// The last visited takes its place, so that the one from the end, which
		// may not have been visited, lands behind the cursor.
		ms.cursor--
		if hole != ms.cursor {
			ms.list[hole] = ms.list[ms.cursor]
			moved(ms.list[hole].Conn, uint32(hole))
		}
		hole = ms.cursor
	}
	if hole != last {
		ms.list[hole] = ms.list[last]
		moved(ms.list[hole].Conn, uint32(hole))
	}
	ms.list = ms.list[:last]
	if cap(ms.list) > 64 && last < cap(ms.list)/4 {
		ms.list = append(make([]Member, 0, cap(ms.list)/2), ms.list...)
	}
}

// Restart begins a walk.
func (ms *Members) Restart() { ms.cursor = 0 }

// Walk visits the next member, or returns nil at the walk's end.
func (ms *Members) Walk() (i uint32, m *Member) {
	if ms.cursor >= len(ms.list) {
		return 0, nil
	}
	i = uint32(ms.cursor)
	ms.cursor++
	return i, &ms.list[i]
}
