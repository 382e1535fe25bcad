//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Marks that the machine's console output is parsed by.
const (
	markTable = "@@table "
	markFault = "@@fault "
	markEnd   = "@@end"
)

// watchdog ends a machine that hangs. The largest scenario takes 8 minutes on two
// cores of its own.
const watchdog = 90 * time.Minute

// vmInit is the machine's first process. Its root is memory, so data and logs are
// on the disk: what the stream writes would be charged to the group else.
const vmInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /tmp /data /run
for m in $(cat /modules/order); do insmod /modules/$m || echo "insmod $m failed"; done
mount -t ext4 /dev/vda /data || echo "@@fault no disk"
mount -t cgroup2 none /sys/fs/cgroup || echo "@@fault no cgroup2"
ip link set lo up
sysctl -q -w fs.nr_open=2100000 fs.file-max=4200000
sysctl -q -w net.ipv4.ip_local_port_range="1024 65535" net.core.somaxconn=65535 net.ipv4.tcp_max_syn_backlog=65535
sysctl -q -w net.ipv4.tcp_max_orphans=262144 net.ipv4.tcp_mem="400000 500000 600000"
ulimit -n 2000000
uname -r
echo "clock: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
for t in /*.test; do
  [ -x "$t" ] || continue
  $t -test.run 'Kernel|TestTLS' -test.skip TestTLSBadRecords -test.v -test.timeout 10m >/data/test.log 2>&1 || { echo "@@fault $t"; cat /data/test.log; }
  grep -E '^(---|ok|PASS|FAIL)' /data/test.log
done
/oom guest --odin /odin --tmp /data --only "$(cat /only)" || echo "@@fault the rig did not run to its end in the machine (status $?)"
dmesg | grep -i -E 'oom-kill|Killed process|oom_reaper' | head -20
echo @@end
umount /data
poweroff -f
`

// machine boots an emulated machine, runs the v2 scenarios in it and reads
// the results from its console.
func (r *rig) machine(kernel, only string) (string, []string, error) {
	for _, tool := range []string{"qemu-system-x86_64", "busybox", "mkfs.ext4", "cpio", "depmod", "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", nil, fmt.Errorf("%w (apt-get install qemu-system-x86 busybox-static e2fsprogs cpio kmod)", err)
		}
	}
	dir, err := os.MkdirTemp(r.tmp, "vm-")
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(dir)
	root, err := unpackKernel(kernel, dir)
	if err != nil {
		return "", nil, err
	}
	image, version, err := findKernel(root)
	if err != nil {
		return "", nil, err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := r.initramfs(root, version, filepath.Join(dir, "root"), initrd, only); err != nil {
		return "", nil, err
	}
	disk := filepath.Join(dir, "disk")
	if err := run("truncate", "-s", "2G", disk); err != nil {
		return "", nil, err
	}
	if err := run("mkfs.ext4", "-q", "-F", disk); err != nil {
		return "", nil, err
	}
	r.say("vm: booting %s", version)
	qemu := exec.Command("qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "6G",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults", "-net", "none",
		// The kernel distrusts the emulated TSC and would read the time from the
		// HPET: a trap under qemu's one lock, by which twenty thousand clients'
		// heartbeats took both processors.
		"-kernel", image, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 loglevel=3 mitigations=off tsc=reliable clocksource=tsc init_on_alloc=0 hardened_usercopy=off",
		"-drive", "file="+disk+",format=raw,if=virtio,cache=unsafe")
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	qemu.Stderr = os.Stderr
	console, err := qemu.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := qemu.Start(); err != nil {
		return "", nil, err
	}
	timer := time.AfterFunc(watchdog, func() { _ = qemu.Process.Kill() })
	defer timer.Stop()
	var text strings.Builder
	var faults []string
	ended := false
	sc := bufio.NewScanner(console)
	sc.Buffer(nil, mib)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		if s, ok := strings.CutPrefix(line, markTable); ok {
			text.WriteString(s + "\n")
		} else if s, ok := strings.CutPrefix(line, markFault); ok {
			faults = append(faults, s)
		} else if line == markEnd {
			ended = true
		} else {
			fmt.Println("vm|", line)
		}
	}
	err = qemu.Wait()
	if !ended {
		return text.String(), faults, errors.Join(errors.New("the machine ended before its scenarios"), err)
	}
	return fmt.Sprintf("Kernel %s, 6 GiB.\n\n%s", version, &text), faults, nil
}

// unpackKernel returns where a linux-image package is unpacked: given, or
// unpacked here from the package given or downloaded.
func unpackKernel(kernel, dir string) (string, error) {
	if st, err := os.Stat(kernel); kernel != "" && err == nil && st.IsDir() {
		return kernel, nil
	}
	if kernel == "" {
		out, err := exec.Command("apt-cache", "depends", "linux-image-cloud-amd64").Output()
		if err != nil {
			return "", fmt.Errorf("apt-cache depends: %w", err)
		}
		name := regexp.MustCompile(`linux-image-[0-9][^ \n]*-cloud-amd64`).FindString(string(out))
		if name == "" {
			return "", errors.New("apt knows no linux-image-…-cloud-amd64: apt-get update, or --kernel FILE.deb")
		}
		cmd := exec.Command("apt-get", "download", "-q", name)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("apt-get download %s: %w: %s", name, err, out)
		}
		debs, _ := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
		if len(debs) == 0 {
			return "", errors.New("apt-get downloaded nothing")
		}
		kernel = debs[0]
	}
	root := filepath.Join(dir, "kernel")
	return root, run("dpkg", "-x", kernel, root)
}

func findKernel(root string) (image, version string, err error) {
	images, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if len(images) == 0 {
		return "", "", fmt.Errorf("no boot/vmlinuz-* below %s", root)
	}
	return images[0], strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"), nil
}

// initramfs packs busybox, the binaries and the modules the disk needs.
func (r *rig) initramfs(kernel, version, root, out, only string) error {
	for _, d := range []string{"bin", "proc", "sys", "dev", "modules"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	files := map[string]string{busybox: "bin/busybox", self: "oom", r.odin: "odin"}
	if err := run("depmod", "-b", kernel, version); err != nil {
		return err
	}
	lib := filepath.Join(kernel, "lib/modules", version)
	b, err := os.ReadFile(filepath.Join(lib, "modules.dep"))
	if err != nil {
		return err
	}
	var order []string
	for _, name := range []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "gf128mul", "ghash-generic", "ctr", "gcm", "aesni-intel", "tls"} {
		for line := range strings.Lines(string(b)) {
			mod, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
			if strings.TrimSuffix(filepath.Base(mod), ".ko") != name {
				continue
			}
			// Listed are all it needs, the deepest last.
			need := strings.Fields(deps)
			slices.Reverse(need)
			for _, m := range append(need, mod) {
				if base := filepath.Base(m); !slices.Contains(order, base) {
					order = append(order, base)
					files[filepath.Join(lib, m)] = "modules/" + base
				}
			}
		} // absent: built in
	}
	tests, _ := filepath.Glob(filepath.Join(filepath.Dir(self), "*.test")) // make e2e-ktls builds some
	for _, t := range tests {
		if only == ktlsScenario {
			files[t] = filepath.Base(t)
		}
	}
	for from, to := range files {
		if err := run("cp", from, filepath.Join(root, to)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"init": vmInit, "only": only, "modules/order": strings.Join(order, "\n") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return run("sh", "-c", `cd "$1" && find . | cpio -o -H newc --quiet >"$2"`, "sh", root, out)
}

func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, out)
	}
	return nil
}
