import java.net.InetSocketAddress;
import java.nio.channels.ServerSocketChannel;

/** Listens on each port, as Netty does for a broker, with the options that a JVM sets by itself. */
public class Bind {
    public static void main(String[] ports) throws Exception {
        for (String port : ports) {
            ServerSocketChannel.open().bind(new InetSocketAddress(Integer.parseInt(port)));
        }
        System.out.print("bound");
    }
}
