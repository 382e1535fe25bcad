// Package netpolltest is netpoll over a scripted kernel: nothing happens but
// what the test makes happen, on the test's own goroutine.
//
//	k := netpolltest.NewKernel()
//	l := k.NewLoop()                 // a netpoll.Loop; Start it with the handler
//	s := k.Socket()                  // a connected socket; s.FD() goes to the code under test
//	s.Send(bytes)                    // the peer's side: Send, Finish, Reset, Give, MaxWrite, Taken
//	for _, e := range l.Batch() {    // one epoll_wait
//	    l.Fire(e)                    // in any order, with RunMail in between
//	}
//	l.RunMail()                      // if Wake was called
//	l.Tick(1)
//
// What it keeps of Linux:
//
//   - A new descriptor has the lowest free number, so a closed one's is reused
//     at once. Kernels, not loops, own descriptors.
//   - Events are edges: In when bytes arrived, Out when a write had come back
//     short and there is room again, both once at Add. The mask of an event is
//     all that is ready when the batch is taken, so hints come unasked for.
//   - An event of a batch fires although its descriptor was deleted meanwhile,
//     with the old token, also when the number has a new owner by then.
//   - A write takes what there is room for, at most MaxWrite; less than asked
//     arms the edge. A reset fails reads and writes.
//
// Misuse panics: any call on a closed descriptor or one of another loop, Add
// twice, Close or Abort before Del, closing twice, an empty read or write, more
// than MaxIovecs buffers, a call outside a handler while the loop runs.
package netpolltest
