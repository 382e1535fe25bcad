// Command autobahn runs the Autobahn test suite's cases against `odin serve
// --echo --compression` and fails on any that does not pass.
//
//	autobahn [--odin bin/odin] [--cases 1,2,9.1] [--skip 12,13] [--suite auto|own|public] [--out FILE]
//
// The cases are run by package suite, always, and by the public suite as well
// where it can be had: as wstest on the PATH (autobahntestsuite, Python 2.7), or
// as its container image where Docker or Podman run. With --suite own or public
// it is only the one, and a public suite that is not there is an error.
//
// OK, INFORMATIONAL and, in cases for which the suite has such a word,
// NON-STRICT pass. UNIMPLEMENTED passes where a case offers permessage-deflate with
// nothing but a window below 32 KiB for the server, which it declines; the report
// names how many those were.
package main
