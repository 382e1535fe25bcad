package manifests

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// Compose reads a compose file by the compose specification's schema, with every profile
// and no variable set.
func Compose(file string) (*types.Project, error) {
	o, err := cli.NewProjectOptions([]string{file}, cli.WithoutEnvironmentResolution, cli.WithProfiles([]string{"*"}))
	if err != nil {
		return nil, err
	}
	return o.LoadProject(context.Background())
}

// CheckCompose returns what is wrong with a project. image are the Dockerfile's settings
// for the image "odin".
func CheckCompose(p *types.Project, image *Dockerfile, odin Odin) (wrong []string) {
	built := map[string]string{} // image to the service that it is built for
	for _, name := range p.ServiceNames() {
		if s := p.Services[name]; s.Build != nil && built[s.Image] != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s is built for %s, too: one of two builds at once fails", name, s.Image, built[s.Image]))
		} else if s.Build != nil {
			built[s.Image] = name
		}
	}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		bad := func(format string, args ...any) {
			wrong = append(wrong, name+": "+fmt.Sprintf(format, args...))
		}
		if built[s.Image] == "" && !pinned(s.Image) {
			bad("image %q names no version", s.Image)
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, "Dockerfile")); err != nil {
				bad("%v", err)
			}
			for arg := range s.Build.Args {
				if !slices.Contains(image.Args, arg) {
					bad("the Dockerfile has no argument %s", arg)
				}
			}
		}
		for what, ok := range map[string]bool{
			"read_only must be true":                               s.ReadOnly,
			"cap_drop must be ALL, and nothing added":              slices.Equal(s.CapDrop, []string{"ALL"}) && len(s.CapAdd) == 0,
			"security_opt must have no-new-privileges":             slices.Contains(s.SecurityOpt, "no-new-privileges:true"),
			"its log has no bound":                                 s.Logging != nil && s.Logging.Options["max-size"] != "" && s.Logging.Options["max-file"] != "",
			"restart must say what happens when it ends":           s.Restart != "",
			"no health check, and it is not said that it has none": s.HealthCheck != nil,
			"it must not be privileged or the host's":              !s.Privileged && s.NetworkMode != "host" && s.Pid != "host",
		} {
			if !ok {
				bad("%s", what)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					bad("%v", err)
				}
				if !v.ReadOnly {
					bad("%s of this machine can be written to", v.Source)
				}
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" && port.Target != 8080 {
				bad("port %d is for everybody: only clients' is", port.Target)
			}
		}
		if built[s.Image] != "" && s.PullPolicy != types.PullPolicyNever {
			bad("pull_policy must be never: %s is built here, and a registry has another", s.Image)
		}
		if s.Image == "odin" {
			for _, w := range checkOdinService(p, &s, image, odin) {
				bad("%s", w)
			}
		}
	}
	return wrong
}

// checkOdinService checks a service of our image: a gateway, or another command.
func checkOdinService(p *types.Project, s *types.ServiceConfig, image *Dockerfile, odin Odin) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if s.MemLimit == 0 {
		bad("no mem_limit: it goes by it")
	}
	command := []string(s.Command)
	if command == nil {
		command = image.Cmd
	}
	if command[0] != "serve" {
		if err := odin.Takes(command...); err != nil {
			bad("%v", err)
		}
		return append(wrong, checkFiles(s, command)...)
	}

	env := maps.Clone(image.Env)
	for k, v := range s.Environment {
		if v != nil {
			env[k] = *v
		}
	}
	settings, err := odin.Settings(env, command[1:])
	if err != nil {
		return append(wrong, err.Error())
	}
	if s.MemSwapLimit != s.MemLimit {
		bad("with swap the memory limit is none: memswap_limit must be mem_limit")
	}
	if u := s.Ulimits["nofile"]; u == nil || max(u.Single, u.Soft) < 65536 {
		bad("nofile must be enough for the connections that memory allows")
	}
	grace := time.Duration(0)
	if s.StopGracePeriod != nil {
		grace = time.Duration(*s.StopGracePeriod)
	}
	wrong = append(wrong, enoughGrace(grace, 0, settings)...)
	if h := s.HealthCheck; h != nil && (len(h.Test) < 3 || h.Test[0] != "CMD" || h.Test[1] != image.Entrypoint[0]) {
		bad("the health check %q can't be run in an image without a shell", h.Test)
	} else if h != nil {
		if err := odin.Takes(h.Test[2:]...); err != nil {
			bad("%v", err)
		}
	}
	if !writable(s, "/tmp") || !writable(s, settings["data_dir"]) {
		bad("/tmp and %s must be a volume or tmpfs: the root can't be written to", settings["data_dir"])
	}
	if settings["nats_url"] != "" {
		for url := range strings.SplitSeq(settings["nats_url"], ",") {
			host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(url), "nats://"), ":")
			if _, ok := p.Services[host]; !ok {
				bad("there is no service %s", host)
			}
		}
	}
	if file := settings["publish_key_file"]; file != "" {
		made := mountOf(s, file)
		if made == "" || !slices.ContainsFunc(slices.Collect(maps.Values(p.Services)), func(k types.ServiceConfig) bool {
			i := slices.Index(k.Command, "--add-to")
			return i >= 0 && i+1 < len(k.Command) && mountOf(&k, k.Command[i+1]) == made && startsBefore(p, k.Name, s)
		}) {
			bad("nobody makes %s before it starts", file)
		}
	}
	return wrong
}

// checkFiles checks that the files a command is given lie in a volume.
func checkFiles(s *types.ServiceConfig, command []string) (wrong []string) {
	for i, arg := range command[:max(len(command)-1, 0)] {
		if slices.Contains([]string{"--out", "--add-to", "--api-key-file"}, arg) && mountOf(s, command[i+1]) == "" {
			wrong = append(wrong, command[i+1]+" lies in no volume")
		}
	}
	return wrong
}

// mountOf is a file's place: the volume it lies in and its path there, "" for none.
func mountOf(s *types.ServiceConfig, file string) string {
	for _, v := range s.Volumes {
		if rest, ok := strings.CutPrefix(file, v.Target+"/"); ok && v.Type == types.VolumeTypeVolume {
			return path.Join(v.Source, rest)
		}
	}
	return ""
}

// startsBefore says whether a service waits for another's success.
func startsBefore(p *types.Project, first string, s *types.ServiceConfig) bool {
	for name, d := range s.DependsOn {
		if d.Condition != types.ServiceConditionCompletedSuccessfully {
			continue
		}
		next := p.Services[name]
		if name == first || startsBefore(p, first, &next) {
			return true
		}
	}
	return false
}

// writable says whether a directory is a volume or tmpfs that may be written to.
func writable(s *types.ServiceConfig, dir string) bool {
	for _, v := range s.Volumes {
		if v.Target == dir && !v.ReadOnly {
			return true
		}
	}
	return slices.ContainsFunc(s.Tmpfs, func(t string) bool { return t == dir || strings.HasPrefix(t, dir+":") })
}
