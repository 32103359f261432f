package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mqlift/internal/hostinfo"
)

func TestBrokersAreKnownByTheirMainClassAndConfiguration(t *testing.T) {
	const namesrv, proxy = "org.apache.rocketmq.namesrv.NamesrvStartup", "org.apache.rocketmq.proxy.ProxyStartup"
	for _, c := range []struct {
		name string
		argv string
		dir  string
		exe  string
		kind Kind
		conf string
		java bool
	}{
		{"relative to the working directory", "/jdk/bin/java -Xmx1g -cp a:b " + mainName + " -c conf/broker.conf", "/opt/mq", "/jdk/bin/java", Broker, "/opt/mq/conf/broker.conf", true},
		{"absolute, with other options", "java " + mainName + " -n 10.0.0.1:9876;10.0.0.2:9876 -c /e/../etc/b.conf", "/", "/usr/lib/jvm/jre/bin/java", Broker, "/etc/b.conf", true},
		{"the first of two", "java " + mainName + " -c /a -c /b", "/", "/j/java", Broker, "/a", true},
		{"written together", "java " + mainName + " -c/a", "/", "/j/java", Broker, "/a", true},
		{"long", "java " + mainName + " --configFile=/a", "/", "/j/java", Broker, "/a", true},
		{"long, apart", "java " + mainName + " --configFile a", "/x", "/j/java", Broker, "/x/a", true},
		{"none", "java " + mainName, "/x", "/j/java", Broker, "", true},
		{"a JVM option that looks like it", "java -c /no " + mainName + " -c /yes", "/x", "/j/java", Broker, "/yes", true},
		{"working directory not readable", "java " + mainName + " -c conf/b", "", "", Broker, "", true},
		{"the wrapper", "sh /opt/mq/bin/runbroker.sh " + mainName + " -c /a", "/", "/usr/bin/dash", Broker, "/a", false},
		{"a JVM whose file was replaced by an update", "java " + mainName + " -c /a", "/", "/j/java (deleted)", Broker, "/a", true},
		{"a name server", "java " + namesrv + " -c /n.conf", "/", "/j/java", NameServer, "/n.conf", true},
		{"a proxy with a broker inside", "java " + proxy + " -pm local -bc conf/b -pc /p.json", "/x", "/j/java", Proxy, "/x/conf/b", true},
		{"an editor", "vim notes about " + mainName + "s", "/", "/usr/bin/vim", "", "", false},
	} {
		argv := strings.Fields(c.argv)
		got := rocketMQProcesses([]hostinfo.Process{{Argv: argv, Dir: c.dir, Exe: c.exe}})
		if c.kind == "" {
			if len(got) != 0 {
				t.Errorf("%s: %+v", c.name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Kind != c.kind || got[0].Conf != c.conf || got[0].Java != c.java {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	if got := rocketMQProcesses([]hostinfo.Process{{Argv: []string{mainName}}, {Argv: []string{"vim", "x " + mainName}}}); len(got) != 0 {
		t.Errorf("no brokers, but %+v", got)
	}
}

func TestSecretsInJVMOptionsAreNotReported(t *testing.T) {
	got := rocketMQProcesses([]hostinfo.Process{{Argv: []string{"java", "-Dtls.keyPassword=hunter2", "-Da.b=c", mainName}}})
	if got[0].Argv[1] != "-Dtls.keyPassword=[secret]" || got[0].Argv[2] != "-Da.b=c" {
		t.Errorf("argv %q", got[0].Argv)
	}
	if s := withoutSecrets("-Xmx1g -Dx.SECRET.key=abc -Dok=1"); s != "-Xmx1g -Dx.SECRET.key=[secret] -Dok=1" {
		t.Errorf("options %q", s)
	}
}

func TestTheSameConfigurationIsKnownThroughLinks(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "rocketmq-4.5.2")
	if err := os.MkdirAll(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(real, "b.conf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, filepath.Join(dir, "rocketmq")); err != nil {
		t.Fatal(err)
	}
	if !samePath(filepath.Join(dir, "rocketmq/b.conf"), filepath.Join(real, "b.conf")) {
		t.Error("not the same through a link")
	}
	if samePath(filepath.Join(dir, "rocketmq/c.conf"), filepath.Join(real, "b.conf")) || samePath("", "") {
		t.Error("the same, but is not")
	}
}

func TestTheJVMIsTheOneThatTheReleasesScriptsTake(t *testing.T) {
	f := Facts{Java: []Java{{"/8/bin/java", "1.8.0_392", JavaHome}, {"/17/bin/java", "17.0.15", JavaByJavac}, {"/11/bin/java", "11.0.2", JavaPath}}}
	for release, major := range map[string]int{"4.5.2": 8, "4.9.8": 8, "5.0.0": 8, "5.1.0": 17, "5.3.3": 17} {
		if j, ok := f.JavaFor(release); !ok || j.Major() != major {
			t.Errorf("%s: %+v", release, j)
		}
	}
	if j, ok := (&Facts{}).JavaFor("4.5.2"); ok {
		t.Errorf("no JVM, but %+v", j)
	}
	if (Java{}).Major() != 0 {
		t.Error("an unknown version has a number")
	}
}
