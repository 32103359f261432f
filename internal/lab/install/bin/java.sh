# What RocketMQ needs on JDK 17 and newer; read by run*.sh and tools.sh.
JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
base=$(cd "$(dirname "$0")/.." && pwd)
# 4.x maps and unmaps files through these; without them it dies at the first mapped file.
JAVA_OPT="$JAVA_OPT --add-exports java.base/sun.nio.ch=ALL-UNNAMED"
for package in sun.nio.ch java.nio jdk.internal.ref java.lang java.util; do
    JAVA_OPT="$JAVA_OPT --add-opens java.base/$package=ALL-UNNAMED"
done
# Small: three brokers and two name servers share a laptop. Serial and C1 make them start faster.
JAVA_OPT="$JAVA_OPT -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
# The logs' configuration uses ${user.home}, which java takes from the user database, not from HOME.
set -- "-Duser.home=$HOME" "-Drocketmq.home.dir=$base" "$@"
CLASSPATH=$base/conf:$base/lib/*
