from tools.bench.measure import main

main()
