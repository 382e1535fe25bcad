package tlsrec

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/tls.h; golang.org/x/sys has no names for them.
const (
	tlsTX            = 1
	tlsRX            = 2
	tlsSetRecordType = 1
	tlsGetRecordType = 2
	cipherAESGCM128  = 51
	cipherAESGCM256  = 52
)

// ErrNotOffloaded is Offload's where the kernel does not do the records: it is not
// asked for the suite, has no module for it, or the peer has said all it had to say
// already (ENOTCONN). The socket is as it was.
var ErrNotOffloaded = errors.New("tlsrec: records not given to the kernel")

// Offload gives the records of a socket to the kernel (Documentation/networking/
// tls.rst): plain reads and writes carry TLS from then on. A record that is no data
// makes read(2) fail with EIO; see Receive. AES-GCM alone is offloaded. With any
// error but ErrNotOffloaded the socket can't be used any more.
func (k *Keys) Offload(fd int) error {
	if suites[k.Suite].chacha {
		return ErrNotOffloaded
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
		return fmt.Errorf("%w: setsockopt TCP_ULP: %w", ErrNotOffloaded, err)
	}
	for _, p := range []struct {
		name int
		d    *direction
	}{{tlsRX, &k.in}, {tlsTX, &k.out}} {
		info := k.info(p.d)
		err := unix.SetsockoptString(fd, unix.SOL_TLS, p.name, string(info))
		clear(info)
		if err != nil {
			return fmt.Errorf("setsockopt SOL_TLS %d: %w", p.name, err)
		}
	}
	return nil
}

// info is struct tls12_crypto_info_aes_gcm_128 or _256: version, cipher, iv (8),
// key, salt (4), number of the next record. Both versions have the same form; for
// TLS 1.2 iv is the next explicit nonce, a counter here.
func (k *Keys) info(d *direction) []byte {
	kind := uint16(cipherAESGCM128)
	if len(d.key) == 32 {
		kind = cipherAESGCM256
	}
	b := binary.NativeEndian.AppendUint16(nil, k.Version)
	b = binary.NativeEndian.AppendUint16(b, kind)
	if k.Version == tls.VersionTLS12 {
		b = binary.BigEndian.AppendUint64(b, d.seq)
	} else {
		b = append(b, d.iv[4:12]...)
	}
	b = append(b, d.key...)
	b = append(b, d.iv[:4]...)
	return binary.BigEndian.AppendUint64(b, d.seq)
}

// KernelReady says whether this kernel takes the records of both AES-GCM suites
// and both versions, by sending a full one over a connection to itself whose
// receiver's SO_RCVBUF is rcvBuf bytes; nil: it does. Before 6.0 a kernel ends a
// connection at a record that is longer than its receive buffer.
func KernelReady(rcvBuf int) error {
	for _, k := range []Keys{
		{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256},
		{Version: tls.VersionTLS13, Suite: tls.TLS_AES_256_GCM_SHA384},
		{Version: tls.VersionTLS12, Suite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	} {
		k.in = direction{key: make([]byte, suites[k.Suite].key), iv: make([]byte, 12)}
		k.out = k.in
		if err := tryKernel(&k, rcvBuf); err != nil {
			return err
		}
	}
	return nil
}

// tryTimeout is how long a record may take from this machine to itself.
const tryTimeout = 2 * time.Second

func tryKernel(k *Keys, rcvBuf int) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			return os.NewSyscallError("setsockopt SO_RCVBUF", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvBuf))
		})
	}}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }()
	from, err := net.DialTimeout("tcp4", ln.Addr().String(), tryTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	to, err := ln.Accept()
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	return offloadBoth(k, from, to)
}

// offloadBoth gives both ends to the kernel and sends a full record.
func offloadBoth(k *Keys, from, to net.Conn) error {
	for _, c := range []net.Conn{from, to} {
		if err := c.SetDeadline(time.Now().Add(tryTimeout)); err != nil {
			return err
		}
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			return err
		}
		if err := control(raw, k.Offload); err != nil {
			return err
		}
	}
	return sendFull(from, to)
}

// sendFull sends as much as a record holds and reads it back.
func sendFull(from io.Writer, to io.Reader) error {
	sent := make([]byte, MaxPlain)
	for i := range sent {
		sent[i] = byte(i)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := from.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(to, got)
	if err := errors.Join(err, <-wrote); err != nil {
		return fmt.Errorf("a full record doesn't pass a receive buffer of this size: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return errors.New("a full record arrives changed")
	}
	return nil
}

// control calls f with a connection's descriptor.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	cerr := c.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(cerr, err)
}

// Receive takes the record that made a read of an offloaded socket fail with EIO
// and says what it means: io.EOF when the peer has said goodbye, nil when it can
// be passed over, any other error ends the connection; EAGAIN: there was none.
// The kernel does not change keys, so a KeyUpdate is such an end: ErrKeyUpdate.
func Receive(fd int, v12 bool) error {
	var data [64]byte // an alert is 2 bytes, a KeyUpdate 5
	oob := make([]byte, unix.CmsgSpace(1))
	n, oobn, _, _, err := unix.Recvmsg(fd, data[:], oob, unix.MSG_DONTWAIT)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_TLS || m.Header.Type != tlsGetRecordType || len(m.Data) == 0 {
			continue
		}
		switch Kind(m.Data[0]) {
		case AlertKind:
			return CheckAlert(data[:n], v12)
		case Handshake:
			if !v12 && data[0] == keyUpdate {
				return ErrKeyUpdate
			}
		}
		return UnexpectedMessage
	}
	return UnexpectedMessage // data, which read(2) would have given
}

// ErrKeyUpdate is a peer's wish for new keys, which the kernel can't follow.
var ErrKeyUpdate = errors.New("tls: the peer changed its keys, which kernel TLS does not follow")

// SendAlert sends an alert on an offloaded socket, if it takes it at once.
func SendAlert(fd int, a Alert) error {
	oob := make([]byte, unix.CmsgSpace(1))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_TLS, tlsSetRecordType
	h.SetLen(unix.CmsgLen(1))
	oob[unix.CmsgLen(0)] = byte(AlertKind)
	return unix.Sendmsg(fd, []byte{a.Level(), byte(a)}, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}
