package channel

import (
	"math/rand/v2"
	"testing"
)

// A walk in turns, with members coming and going in between, visits each one
// that stays from its begin to its end exactly once, and none twice; and every
// move is announced.
func TestMembersWalk(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var ms Members
		index := make(map[uint32]uint32) // what the connections know
		next := uint32(0)
		add := func() {
			index[next] = ms.Add(Member{Conn: next})
			next++
		}
		remove := func() {
			if len(index) == 0 {
				return
			}
			victim := ms.list[rng.IntN(len(ms.list))].Conn
			i := index[victim]
			delete(index, victim)
			ms.Remove(i, func(conn, at uint32) {
				if _, ok := index[conn]; !ok {
					t.Fatalf("seed %d: %d was moved, and isn't there", seed, conn)
				}
				index[conn] = at
			})
		}
		for range rng.IntN(200) {
			add()
		}
		for range 5 {
			ms.Restart()
			visited := make(map[uint32]bool)
			owed := make(map[uint32]bool)
			for c := range index {
				owed[c] = true
			}
			churn := rng.IntN(4)
			for {
				i, m := ms.Walk()
				if m == nil {
					break
				}
				if visited[m.Conn] {
					t.Fatalf("seed %d: %d visited twice", seed, m.Conn)
				}
				if index[m.Conn] != i {
					t.Fatalf("seed %d: %d is at %d, not %d", seed, m.Conn, index[m.Conn], i)
				}
				visited[m.Conn] = true
				for range rng.IntN(1 + churn) {
					if rng.IntN(3) == 0 {
						add()
					} else {
						remove()
					}
				}
			}
			for c := range owed {
				if _, stayed := index[c]; stayed && !visited[c] {
					t.Fatalf("seed %d: %d left out", seed, c)
				}
			}
			if ms.Len() != len(index) {
				t.Fatalf("seed %d: %d members, want %d", seed, ms.Len(), len(index))
			}
			for c, i := range index {
				if ms.At(i).Conn != c {
					t.Fatalf("seed %d: %d isn't at %d", seed, c, i)
				}
			}
		}
	}
}

func TestMemberPosition(t *testing.T) {
	for _, next := range []uint64{5, 1 << 32, 1<<32 + 5, 7<<32 + 1} {
		for _, behind := range []uint64{0, 1, 5} {
			var m Member
			m.Move(next-behind, 9)
			if m.Ord(next) != next-behind || m.Lag(next) != uint32(behind) || m.Behind(next) != (behind > 0) || m.Seq != 9 {
				t.Errorf("next %d, %d behind: ord %d lag %d", next, behind, m.Ord(next), m.Lag(next))
			}
		}
	}
}
