package docs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shellRole, set in the environment, makes this test's binary the shell of a document:
// it brings up the loopback device of its network namespace and becomes bash.
const shellRole = "ODIN_DOCS_SHELL"

// becomeShell never returns.
func becomeShell() {
	err := loopbackUp()
	if err == nil {
		var bash string
		if bash, err = exec.LookPath("bash"); err == nil {
			_ = os.Unsetenv(shellRole)
			err = syscall.Exec(bash, []string{"bash", "--noprofile", "--norc"}, os.Environ())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// loopbackUp is `ip link set lo up` for machines without ip(8); netdevice(7).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// errNoNamespace is why no command can be run: this machine gives no namespaces.
var errNoNamespace = errors.New("no network namespace can be made here (root, or user namespaces)")

// shell is a bash that runs a document's commands one after the other, in network and
// process namespaces of its own: it sees ports 8080 and 8081 free, and all that it
// started ends with it. One goroutine.
type shell struct {
	dir    string // where it began
	cmd    *exec.Cmd
	in     io.WriteCloser
	status *bufio.Scanner
	n      int
}

// newShell starts one in dir with the environment env.
func newShell(dir string, env []string) (*shell, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, ".typed"), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = dir
	cmd.Env = append(env, shellRole+"=1")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, ".typed", "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		_, _ = w.Close(), r.Close()
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			return nil, errNoNamespace
		}
		return nil, err
	}
	_ = w.Close()
	return &shell{dir: dir, cmd: cmd, in: in, status: bufio.NewScanner(r)}, nil
}

// close ends the shell and everything it started.
func (s *shell) close() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// run types text and waits for its end; printed is what came out on both streams.
// An error means that the shell is of no more use.
func (s *shell) run(text string, timeout time.Duration) (exit int, printed string, err error) {
	s.n++
	base := filepath.Join(s.dir, ".typed", strconv.Itoa(s.n))
	if err := os.WriteFile(base+".sh", []byte(text+"\n"), 0o644); err != nil {
		return 0, "", err
	}
	late := time.AfterFunc(timeout, func() { _ = s.cmd.Process.Kill() })
	defer late.Stop()
	fmt.Fprintf(s.in, ". %[1]s.sh >%[1]s.out 2>&1 </dev/null; echo %[2]d $? >&3\n", base, s.n)
	for s.status.Scan() {
		var n int
		if _, err := fmt.Sscan(s.status.Text(), &n, &exit); err == nil && n == s.n {
			out, err := os.ReadFile(base + ".out")
			return exit, string(out), err
		}
	}
	out, _ := os.ReadFile(base + ".out")
	log, _ := os.ReadFile(filepath.Join(s.dir, ".typed", "log"))
	if !late.Stop() {
		return 0, string(out), fmt.Errorf("not done after %v", timeout)
	}
	return 0, string(out), fmt.Errorf("the shell has ended: %s", log)
}

// background types text as a job of its own process group, and then waits until the
// shell condition until holds or the job has ended; it gives up after 600
// looks, half a minute and more.
// Afterwards $job is the job. The job's output so far is printed.
func (s *shell) background(text, until string) (exit int, printed string, err error) {
	s.n++
	base := filepath.Join(s.dir, ".typed", strconv.Itoa(s.n))
	text = strings.TrimSuffix(strings.TrimSpace(text), "&")
	if err := os.WriteFile(base+".job", []byte(text+"\n"), 0o644); err != nil {
		return 0, "", err
	}
	exit, problem, err := s.run(fmt.Sprintf(`set -m
{ . %[1]s.job; } >%[1]s.printed 2>&1 </dev/null &
job=$!
set +m
typed=%[1]s.printed
for ((i = 0; i < 600; i++)); do
  if %[2]s; then return 0; fi
  kill -0 $job 2>/dev/null || { echo 'it has ended:'; return 97; }
  sleep 0.05
done
echo 'it is not ready after 600 looks:'; cat $typed.ready 2>/dev/null
return 98`, base, until), commandTime)
	out, _ := os.ReadFile(base + ".printed")
	return exit, problem + string(out), err
}
